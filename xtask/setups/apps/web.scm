(use-modules (web server) (rnrs bytevectors))
(define large (make-bytevector 300000 114))
(run-server (lambda (request body) (values '((content-type . (application/octet-stream))) large))
            'http (list #:port (string->number (cadr (command-line)))))
