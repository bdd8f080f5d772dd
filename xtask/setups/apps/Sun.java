import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.Arrays;

/** The JDK's own server: `java Sun.java PORT`. */
class Sun {
    public static void main(String[] arguments) throws Exception {
        byte[] large = new byte[300000];
        Arrays.fill(large, (byte) 'r');
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 50);
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, large.length);
            exchange.getResponseBody().write(large);
            exchange.close();
        });
        server.start();
    }
}
