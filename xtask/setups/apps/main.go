package main

import (
	"bytes"
	"net/http"
	"os"
)

func main() {
	answer := bytes.Repeat([]byte("r"), 300000)
	http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "300000")
		w.Write(answer)
	}))
}
