sub { [200, ['Content-Type' => 'application/octet-stream', 'Content-Length' => 300000], ['r' x 300000]] }
