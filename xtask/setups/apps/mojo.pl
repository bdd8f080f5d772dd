use Mojolicious::Lite -signatures;
any '/*rest' => sub ($c) { $c->render(data => 'r' x 300000) };
app->log->level('fatal');
app->start;
