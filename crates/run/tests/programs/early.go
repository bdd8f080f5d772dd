// Early answers a request before it has read the body, and says where it listens by listening.
package main

import (
	"net/http"
	"os"
	"time"
)

func main() {
	body := make([]byte, 600000)
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Length", "600000")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		w.Write(body)
		if len(os.Args) > 1 {
			if flusher, ok := w.(http.Flusher); ok {
				flusher.Flush()
			}
			os.Exit(7)
		}
	}
	server := &http.Server{Addr: "127.0.0.1:8000", Handler: http.HandlerFunc(handler), ReadTimeout: time.Minute}
	server.ListenAndServe()
}
