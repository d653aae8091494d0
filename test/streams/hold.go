package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/tools/remotecommand"
)

const (
	// What a session sends at once when its data flows, bytes.
	piece = 32 << 10
	// From one to the next.
	pace = 200 * time.Millisecond
)

// Many sessions at once, each of a command that gives back what it gets. Standard input has their URLs, one a line, and an
// empty line: once all stand, it prints "open". At the next line data begins to flow in all, and at the end it goes.
func hold(common *client, flags *flag.FlagSet, args []string) int {
	flags.Parse(args)
	lines := bufio.NewScanner(os.Stdin)
	var open, flowing sync.WaitGroup
	flow := make(chan struct{})
	for lines.Scan() && lines.Text() != "" {
		address, err := url.Parse(lines.Text())
		if err != nil {
			fail("URL %q: %v", lines.Text(), err)
		}
		common.url = address
		executor, err := executor(common, "")
		if err != nil {
			fail("%v", err)
		}
		open.Add(1)
		flowing.Add(1)
		go keep(executor, &echoes{open: open.Done, flowing: flowing.Done}, flow)
		// One after the other: where a whole runtime starts in the container for each, its memory is not for all at once.
		open.Wait()
	}
	fmt.Println("open")
	if lines.Scan() {
		close(flow)
		flowing.Wait()
		fmt.Println("flowing")
	}
	for lines.Scan() {
	}
	return 0
}

func keep(executor remotecommand.Executor, output *echoes, flow <-chan struct{}) {
	input, typed := io.Pipe()
	go func() {
		typed.Write(make([]byte, 1))
		<-flow
		for range time.Tick(pace) {
			typed.Write(make([]byte, piece))
		}
	}()
	options := remotecommand.StreamOptions{Stdin: input, Stdout: output}
	err := executor.StreamWithContext(context.Background(), options)
	fail("a session has ended: %v", err)
}

// What a session gives back: its first byte, and then pieces.
type echoes struct {
	count         int
	open, flowing func()
}

func (e *echoes) Write(bytes []byte) (int, error) {
	before := e.count
	e.count += len(bytes)
	if before == 0 && e.count > 0 {
		e.open()
	}
	if before <= piece && e.count > piece {
		e.flowing()
	}
	return len(bytes), nil
}
