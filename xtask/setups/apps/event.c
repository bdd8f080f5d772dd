/* libevent's HTTP server: 300,000 bytes for each request. `event PORT` */
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdlib.h>
#include <string.h>

static char large[300000];

static void answer(struct evhttp_request *request, void *own) {
    struct evbuffer *body = evbuffer_new();
    evbuffer_add(body, large, sizeof large);
    evhttp_send_reply(request, 200, "OK", body);
    evbuffer_free(body);
}

int main(int count, char **arguments) {
    struct event_base *base = event_base_new();
    struct evhttp *server = evhttp_new(base);
    memset(large, 'r', sizeof large);
    evhttp_set_gencb(server, answer, NULL);
    evhttp_set_max_body_size(server, 1 << 20);
    if (evhttp_bind_socket(server, "127.0.0.1", atoi(arguments[1]))) return 1;
    return event_base_dispatch(base);
}
