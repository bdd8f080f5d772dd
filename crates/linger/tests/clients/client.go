// client URL VERSION ROUNDS BYTES PAUSE PATIENCE: Go's client with its pool; see clients.py.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

type pieces struct {
	left, piece int
	pause       time.Duration
	begun       bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	if p.begun && p.left%p.piece == 0 {
		time.Sleep(p.pause)
	}
	p.begun = true
	most := p.left % p.piece
	if most == 0 {
		most = p.piece
	}
	if most > len(b) {
		most = len(b)
	}
	for i := range b[:most] {
		b[i] = 'u'
	}
	p.left -= most
	return most, nil
}

func main() {
	url, version := os.Args[1], os.Args[2]
	rounds, _ := strconv.Atoi(os.Args[3])
	size, _ := strconv.Atoi(os.Args[4])
	pause, _ := strconv.ParseFloat(os.Args[5], 64)
	patience, _ := strconv.ParseFloat(os.Args[6], 64)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: version == "2"}
	client := &http.Client{Transport: transport, Timeout: time.Duration(patience * 1e9)}
	ask := func(what, method, path string, body io.Reader) {
		request, _ := http.NewRequest(method, url+path, body)
		if body != nil {
			request.ContentLength = int64(size / 8 * 8)
		}
		response, err := client.Do(request)
		if err != nil {
			fmt.Println(what, err)
			return
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			fmt.Println(what, err)
			return
		}
		fmt.Println(what, response.StatusCode, len(got))
	}
	for i := 0; i < rounds; i++ {
		ask("upload", "POST", "/refused", &pieces{left: size / 8 * 8, piece: size / 8, pause: time.Duration(pause * 1e9)})
		ask("next", "GET", "/hello", nil)
	}
}
