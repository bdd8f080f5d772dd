# HTTP::Daemon: `daemon.pl PORT`.
use HTTP::Daemon;
use HTTP::Response;
my $daemon = HTTP::Daemon->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], ReuseAddr => 1) or die;
$SIG{PIPE} = 'IGNORE';
while (my $connection = $daemon->accept) {
    # Only the header is read.
    while (my $request = $connection->get_request(1)) {
        $connection->send_response(HTTP::Response->new(200, 'OK', ['Content-Length' => 300000], 'r' x 300000));
        last if ($request->header('Connection') // '') eq 'close';
    }
    $connection->close;
}
