package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// A session of Exec or Attach on our own standard streams. The exit code is the command's; 124 is any other failure.
func execute(common *client, flags *flag.FlagSet, args []string) int {
	stdin := flags.Bool("stdin", false, "send standard input")
	noStdout := flags.Bool("no-stdout", false, "do not ask for standard output")
	noStderr := flags.Bool("no-stderr", false, "do not ask for standard error")
	tty := flags.Bool("tty", false, "a terminal")
	protocols := flags.String("protocols", "", "subprotocols to offer, best first, instead of the library's own")
	given := flags.String("sizes", "", "sizes of the terminal, one after the other")
	through := flags.Int64("through", 0, "bytes to send, and count when they come back, in place of the standard streams")
	flags.Parse(args)
	executor, err := executor(common, *protocols)
	if err != nil {
		fail("%v", err)
	}
	options := remotecommand.StreamOptions{Tty: *tty}
	if *through > 0 {
		measured := newLoop(*through)
		options.Stdin, options.Stdout = measured, measured
		if err := executor.StreamWithContext(context.Background(), options); err != nil {
			fail("%v", err)
		}
		return measured.tell()
	}
	if *stdin {
		options.Stdin = os.Stdin
	}
	if !*noStdout {
		options.Stdout = os.Stdout
	}
	if !*noStderr && !*tty {
		options.Stderr = os.Stderr
	}
	if *given != "" {
		options.TerminalSizeQueue = newSizes(*given)
	}
	err = executor.StreamWithContext(context.Background(), options)
	var code exec.CodeExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return code.Code
	default:
		fmt.Fprintf(os.Stderr, "corten-streams: %v\n", err)
		return 124
	}
}

func executor(common *client, protocols string) (remotecommand.Executor, error) {
	offered := strings.Split(protocols, ",")
	switch {
	case common.websocket && protocols == "":
		return remotecommand.NewWebSocketExecutor(common.config, "GET", common.url.String())
	case common.websocket:
		return remotecommand.NewWebSocketExecutorForProtocols(common.config, "GET", common.url.String(), offered...)
	case protocols == "":
		return remotecommand.NewSPDYExecutor(common.config, "POST", common.url)
	}
	transport, upgrader, err := spdy.RoundTripperFor(common.config)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, "POST", common.url, offered...)
}

// Gives each size once, then none for ever.
type sizes struct {
	left []remotecommand.TerminalSize
}

func newSizes(given string) *sizes {
	all := &sizes{}
	for _, text := range strings.Split(given, ",") {
		size := remotecommand.TerminalSize{}
		if _, err := fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height); err != nil {
			fail("size %q: %v", text, err)
		}
		all.left = append(all.left, size)
	}
	return all
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(s.left) == 0 {
		select {}
	}
	size := s.left[0]
	s.left = s.left[1:]
	return &size
}
