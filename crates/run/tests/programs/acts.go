// Small programs in one, as acts.c: `acts NAME`, and `acts` lists the names.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"sort"
	"syscall"
	"time"
)

var page = append(append([]byte("HTTP/1.0 200 OK\r\n\r\n"), make([]byte, 200000)...), "END"...)

func client() (net.Listener, *net.TCPConn) {
	listener, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		panic(err)
	}
	c, err := listener.Accept()
	if err != nil {
		panic(err)
	}
	return listener, c.(*net.TCPConn)
}

func early(c net.Conn) {
	n, _ := io.ReadFull(c, make([]byte, 10))
	fmt.Println("read", n)
	c.Write(page)
}

func full(c net.Conn) {
	n, _ := io.ReadFull(c, make([]byte, 8192))
	fmt.Println("saw", n)
	fmt.Fprintf(c, "saw %d of 8192", n)
}

func inherited(c *net.TCPConn) {
	file, _ := c.File()
	helper := exec.Command("/proc/self/exe", "inherited")
	helper.ExtraFiles, helper.Stdout = []*os.File{file}, os.Stdout
	started := helper.Start()
	file.Close()
	c.Close()
	// The helper tells what it saw on the same stdout: before this, whichever process is quicker.
	fmt.Println(helper.Wait(), started)
}

var acts = map[string]func(){
	"exit_3":     func() { os.Exit(3) },
	"exit_panic": func() { defer func() { fmt.Println(recover()); os.Exit(9) }(); panic("told") },
	"exit_kill":  func() { syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} },
	"signal_notified": func() {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGUSR2)
		syscall.Kill(os.Getpid(), syscall.SIGUSR2)
		fmt.Println(<-c)
	},
	"signal_ignored": func() { fmt.Println(signal.Ignored(syscall.SIGPIPE), signal.Ignored(syscall.SIGHUP)) },
	"fork_run":       func() { out, err := exec.Command("sh", "-c", "echo out; exit 4").Output(); fmt.Printf("%q %v\n", out, err) },
	"fork_killed":    func() { fmt.Println(exec.Command("sh", "-c", "kill -9 $$").Run()) },
	"fork_missing":   func() { fmt.Println(exec.Command("no-such-program").Run()) },
	"exec_again":     func() { syscall.Exec("/proc/self/exe", []string{"acts", "exit_3"}, os.Environ()) },
	"files_written":  func() { os.WriteFile("file", []byte("x"), 0o640) },
	"threads_many": func() {
		c := make(chan int)
		for i := 0; i < 100; i++ {
			go func(i int) { time.Sleep(time.Millisecond); c <- i }(i)
		}
		sum := 0
		for i := 0; i < 100; i++ {
			sum += <-c
		}
		fmt.Println(sum)
	},
	"early_close":      func() { _, c := client(); early(c); fmt.Println(c.Close(), c.Close() != nil) },
	"early_half_close": func() { _, c := client(); early(c); fmt.Println(c.CloseWrite(), c.Close()) },
	"early_exit":       func() { _, c := client(); early(c); os.Exit(5) },
	"early_goroutine":  func() { done := make(chan int); _, c := client(); go func() { early(c); c.Close(); done <- 1 }(); <-done },
	"early_run":        func() { _, c := client(); early(c); fmt.Println(exec.Command("true").Run()); c.Close() },
	"early_file":       func() { _, c := client(); f, _ := c.File(); c.Close(); f.Read(make([]byte, 10)); f.Write(page); fmt.Println(f.Close()) },
	"plain_close_read": func() { _, c := client(); early(c); fmt.Println(c.CloseRead(), c.Close()) },
	"plain_linger_0":   func() { _, c := client(); early(c); c.SetLinger(0); fmt.Println(c.Close()) },
	"full_read":        func() { _, c := client(); full(c); c.Close() },
	"full_inherited":   func() { _, c := client(); inherited(c) },
	"early_http": func() {
		done := make(chan int)
		listener, _ := net.Listen("tcp", "127.0.0.1:8000")
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			w.Write(page)
			go func() { done <- 1 }()
		})}
		go server.Serve(listener)
		<-done
		listener.Close()
		time.Sleep(700 * time.Millisecond)
	},
}

func main() {
	switch {
	case len(os.Args) == 1:
		names := []string{}
		for name := range acts {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			fmt.Println(name)
		}
	case os.Args[1] == "inherited":
		c, err := net.FileConn(os.NewFile(3, "connection"))
		if err != nil {
			panic(err)
		}
		full(c)
	default:
		acts[os.Args[1]]()
	}
}
