package Simple;
use base 'HTTP::Server::Simple::CGI';
sub handle_request { print "HTTP/1.0 200 OK\r\nContent-Length: 300000\r\n\r\n", 'r' x 300000 }
sub print_banner {}
my $server = Simple->new($ARGV[0]);
$server->host('127.0.0.1');
$server->run();
