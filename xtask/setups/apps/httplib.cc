// cpp-httplib: 300,000 bytes for each request, whose body is not read. `httplib PORT`
#include <httplib.h>

int main(int count, char **arguments) {
    httplib::Server server;
    const std::string large(300000, 'r');
    server.Get("/large", [&](const httplib::Request &, httplib::Response &response) { response.set_content(large, "text/plain"); });
    server.Post("/large", [&](const httplib::Request &, httplib::Response &response, const httplib::ContentReader &) {
        response.set_content(large, "text/plain");
    });
    return !server.listen("127.0.0.1", atoi(arguments[1]));
}
