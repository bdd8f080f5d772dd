<?php header('Content-Length: 300000'); echo str_repeat('r', 300000);
