run lambda { |environment| [200, { 'content-type' => 'application/octet-stream', 'content-length' => '300000' }, ['r' * 300_000]] }
