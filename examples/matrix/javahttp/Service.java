import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A service that calls the next one: in turn, by threads of an executor, and by threads that take their jobs from a queue, in which no context
 * travels.
 *
 * <p>It knows no tenant. "mark" is the test's: what the next service is told by the mesh is compared with it.
 */
public final class Service {
  private static final Pattern COUNTS = Pattern.compile("\"proven\": ?(\\d+), ?\"refused\": ?(\\d+), ?\"wrong\": ?(\\d+)");

  private final HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private final ExecutorService executor = Executors.newFixedThreadPool(64);
  private final BlockingQueue<FutureTask<Total>> jobs = new LinkedBlockingQueue<>();

  private record Total(int proven, int refused, int wrong) {
    Total plus(Total other) {
      return new Total(proven + other.proven, refused + other.refused, wrong + other.wrong);
    }

    static Total of(String json) throws IOException {
      Matcher found = COUNTS.matcher(json);
      if (!found.find()) throw new IOException(json);
      return new Total(Integer.parseInt(found.group(1)), Integer.parseInt(found.group(2)), Integer.parseInt(found.group(3)));
    }

    String json() {
      return String.format("{\"proven\": %d, \"refused\": %d, \"wrong\": %d}", proven, refused, wrong);
    }
  }

  public static void main(String[] args) throws IOException {
    Service service = new Service();
    for (int i = 0; i < 64; i++) {
      Thread worker = new Thread(service::drain);
      worker.setDaemon(true);
      worker.start();
    }
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 1024);
    server.setExecutor(Executors.newFixedThreadPool(256));
    server.createContext("/work", service::handle);
    server.start();
  }

  private void drain() {
    try {
      for (; ; ) jobs.take().run();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private void handle(HttpExchange exchange) throws IOException {
    int status = 200;
    String answer;
    try {
      String mark = exchange.getRequestURI().getQuery().replaceFirst("^mark=", "");
      answer = work(mark, mark.equals(exchange.getRequestHeaders().getFirst("X-Tenant-Id")) ? 0 : 1).json();
    } catch (Exception e) {
      status = 500;
      answer = e.toString();
    }
    byte[] body = answer.getBytes(StandardCharsets.UTF_8);
    exchange.sendResponseHeaders(status, body.length);
    exchange.getResponseBody().write(body);
    exchange.close();
  }

  private Total work(String mark, int wrong) throws Exception {
    Callable<Total> call = () -> call(mark);
    List<Future<Total>> asked = new ArrayList<>();
    for (int i = 0; i < number("TASKS"); i++) asked.add(executor.submit(call));
    for (int i = 0; i < number("BARE"); i++) {
      FutureTask<Total> job = new FutureTask<>(call);
      jobs.put(job);
      asked.add(job);
    }
    Total total = new Total(0, 0, wrong);
    for (int i = 0; i < number("TURNS"); i++) total = total.plus(call(mark));
    for (Future<Total> one : asked) total = total.plus(one.get());
    return total;
  }

  private Total call(String mark) throws IOException, InterruptedException {
    URI uri = URI.create(System.getenv("NEXT") + "/work?mark=" + mark);
    var answer = client.send(HttpRequest.newBuilder(uri).timeout(Duration.ofMinutes(1)).build(), BodyHandlers.ofString());
    var reason = answer.headers().firstValue("x-tenantmesh-reason");
    if (answer.statusCode() == 200) return Total.of(answer.body()).plus(new Total(1, 0, 0));
    if (answer.statusCode() == 403 && reason.isPresent()) return new Total(0, 1, 0);
    throw new IOException(answer.statusCode() + " " + reason.orElse("") + " " + answer.body());
  }

  private static int number(String name) {
    return Integer.parseInt(System.getenv().getOrDefault(name, "0"));
  }
}
