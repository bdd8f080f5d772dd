use Mojolicious::Lite -signatures;
websocket '/ws' => sub ($c) { $c->on(message => sub ($c, $message) { $c->send($message) }) };
any '/*rest' => sub ($c) { $c->render(data => 'r' x 300000) };
app->log->level('fatal');
app->start;
