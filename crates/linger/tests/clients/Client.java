// Client URL VERSION ROUNDS BYTES PAUSE PATIENCE: Java's client with its pool; see clients.py.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.util.Iterator;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

class Client {
    static HttpClient client;
    static Duration patience;

    static void ask(String what, HttpRequest.Builder request) {
        try {
            var response = client.send(request.timeout(patience).build(), BodyHandlers.ofByteArray());
            System.out.println(what + " " + response.statusCode() + " " + response.body().length);
        } catch (Exception error) {
            System.out.println(what + " " + error);
        }
    }

    static Iterator<byte[]> pieces(int size, double pause) {
        return new Iterator<>() {
            int given = 0;
            public boolean hasNext() { return given < 8; }
            public byte[] next() {
                try {
                    if (given++ > 0) Thread.sleep((long) (pause * 1000));
                } catch (InterruptedException error) {
                    throw new IllegalStateException(error);
                }
                return new byte[size / 8];
            }
        };
    }

    public static void main(String[] arguments) throws Exception {
        System.setProperty("jdk.internal.httpclient.disableHostnameVerification", "true");
        TrustManager everybody = new X509TrustManager() {
            public void checkClientTrusted(X509Certificate[] chain, String type) {}
            public void checkServerTrusted(X509Certificate[] chain, String type) {}
            public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
        };
        var context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {everybody}, null);
        var version = arguments[1].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
        client = HttpClient.newBuilder().version(version).sslContext(context).build();
        int rounds = Integer.parseInt(arguments[2]), size = Integer.parseInt(arguments[3]);
        double pause = Double.parseDouble(arguments[4]);
        patience = Duration.ofMillis((long) (Double.parseDouble(arguments[5]) * 1000));
        for (int i = 0; i < rounds; i++) {
            Iterable<byte[]> body = () -> pieces(size, pause);
            var sized = BodyPublishers.fromPublisher(BodyPublishers.ofByteArrays(body), size / 8 * 8L);
            ask("upload", HttpRequest.newBuilder(URI.create(arguments[0] + "/refused")).POST(sized));
            ask("next", HttpRequest.newBuilder(URI.create(arguments[0] + "/hello")));
        }
        System.exit(0);
    }
}
