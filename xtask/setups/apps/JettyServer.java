import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Arrays;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.handler.AbstractHandler;

/** Jetty in a program: `java -cp ... JettyServer.java PORT`. */
class JettyServer {
    public static void main(String[] arguments) throws Exception {
        byte[] large = new byte[300000];
        Arrays.fill(large, (byte) 'r');
        Server server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
        server.setHandler(new AbstractHandler() {
            @Override
            public void handle(String target, Request base, HttpServletRequest request, HttpServletResponse response) throws IOException {
                base.setHandled(true);
                response.setContentLength(large.length);
                response.getOutputStream().write(large);
            }
        });
        server.setStopAtShutdown(true);
        server.start();
        server.join();
    }
}
