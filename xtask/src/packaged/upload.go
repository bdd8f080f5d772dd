// Uploads SIZE bytes to URL so often; prints how many answers were whole.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

func main() {
	number := func(index int) int { value, _ := strconv.Atoi(os.Args[index]); return value }
	url, times, size, whole := os.Args[1], number(2), number(3), number(4)
	right := 0
	for round := 0; round < times; round++ {
		answer, err := http.Post(url, "text/plain", bytes.NewReader(bytes.Repeat([]byte("u"), size)))
		if err != nil {
			continue
		}
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err == nil && answer.StatusCode == 413 && len(got) == whole {
			right++
		}
	}
	fmt.Println(right)
}
