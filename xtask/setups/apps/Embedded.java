import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Arrays;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

/** Tomcat in a program: `java -cp ... Embedded.java PORT FOLDER`. */
class Embedded {
    public static void main(String[] arguments) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(arguments[1]);
        tomcat.setHostname("127.0.0.1");
        tomcat.setPort(Integer.parseInt(arguments[0]));
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        Context context = tomcat.addContext("", arguments[1]);
        byte[] large = new byte[300000];
        Arrays.fill(large, (byte) 'r');
        Tomcat.addServlet(context, "large", new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
                response.setContentLength(large.length);
                response.getOutputStream().write(large);
            }
        });
        context.addServletMappingDecoded("/*", "large");
        tomcat.start();
        tomcat.getServer().await();
    }
}
