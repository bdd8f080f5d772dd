// Uploads SIZE bytes to URL so often; prints how many answers were whole.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Upload {
    public static void main(String[] words) throws Exception {
        int times = Integer.parseInt(words[1]), size = Integer.parseInt(words[2]), whole = Integer.parseInt(words[3]);
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(words[0]))
            .POST(HttpRequest.BodyPublishers.ofByteArray(new byte[size])).build();
        int right = 0;
        for (int round = 0; round < times; round++) {
            try {
                HttpResponse<byte[]> answer = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
                if (answer.statusCode() == 413 && answer.body().length == whole) right++;
            } catch (java.io.IOException lost) {
            }
        }
        System.out.println(right);
    }
}
