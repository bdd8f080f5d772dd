package main

import (
	"bytes"
	"os"

	"github.com/valyala/fasthttp"
)

func main() {
	large := bytes.Repeat([]byte("r"), 300000)
	server := fasthttp.Server{
		// The body is left unread.
		StreamRequestBody: true,
		Handler:           func(context *fasthttp.RequestCtx) { context.SetBody(large) },
	}
	if err := server.ListenAndServe("127.0.0.1:" + os.Args[1]); err != nil {
		panic(err)
	}
}
