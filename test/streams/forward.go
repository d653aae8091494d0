package main

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Connections to a server that echoes, all on one session and at once. Prints how many got back what they had sent.
func forward(common *client, flags *flag.FlagSet, args []string) int {
	port := flags.Int("port", 0, "port in the pod")
	connections := flags.Int("connections", 1, "how many")
	length := flags.Int("bytes", 1<<20, "sent on each")
	resets := flags.Int("resets", 0, "of them, broken off midway")
	through := flags.Int64("through", 0, "bytes to send on one connection, and count when they come back")
	broken := flags.String("broken", "", "ports of connections that fail, while one that has begun waits")
	flags.Parse(args)
	session, err := dial(common)
	if err != nil {
		fail("%v", err)
	}
	defer session.Close()
	if *through > 0 {
		return measure(session, *port, *through)
	}
	if *broken != "" {
		if err := besideBroken(session, *port, *length, strings.Split(*broken, ",")); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	var whole, failed atomic.Int64
	var all sync.WaitGroup
	for id := range *connections {
		all.Go(func() {
			if err := echo(session, id, *port, *length, id < *resets); err != nil {
				failed.Add(1)
				fmt.Printf("connection %d: %v\n", id, err)
			} else if id >= *resets {
				whole.Add(1)
			}
		})
	}
	all.Wait()
	fmt.Printf("%d whole, %d reset, %d failed\n", whole.Load(), *resets, failed.Load())
	if failed.Load() > 0 {
		return 1
	}
	return 0
}

func dial(common *client) (httpstream.Connection, error) {
	var dialer httpstream.Dialer
	if common.websocket {
		tunnel, err := portforward.NewSPDYOverWebsocketDialer(common.url, common.config)
		if err != nil {
			return nil, err
		}
		dialer = tunnel
	} else {
		transport, upgrader, err := spdy.RoundTripperFor(common.config)
		if err != nil {
			return nil, err
		}
		dialer = spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", common.url)
	}
	session, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	return session, err
}

// One connection: an error stream and a data stream, as kubectl opens them.
func connect(session httpstream.Connection, id, port int) (errors, data httpstream.Stream, err error) {
	headers := http.Header{}
	headers.Set("streamType", "error")
	headers.Set("port", strconv.Itoa(port))
	headers.Set("requestID", strconv.Itoa(id))
	if errors, err = session.CreateStream(headers); err != nil {
		return nil, nil, fmt.Errorf("error stream: %w", err)
	}
	errors.Close()
	headers.Set("streamType", "data")
	if data, err = session.CreateStream(headers); err != nil {
		return nil, nil, fmt.Errorf("data stream: %w", err)
	}
	return errors, data, nil
}

func echo(session httpstream.Connection, id, port, length int, reset bool) error {
	errors, data, err := connect(session, id, port)
	if err != nil {
		return err
	}
	defer session.RemoveStreams(errors, data)
	sent := make([]byte, length)
	rand.NewChaCha8([32]byte{byte(id), byte(id >> 8)}).Read(sent)
	if reset {
		_, err := data.Write(sent[:length/2])
		data.Reset()
		return err
	}
	go func() {
		io.Copy(data, bytes.NewReader(sent))
		data.Close()
	}()
	received, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	if text, _ := io.ReadAll(errors); len(text) > 0 {
		return fmt.Errorf("%s", text)
	}
	if sha256.Sum256(received) != sha256.Sum256(sent) {
		return fmt.Errorf("%d bytes came back of %d, or others", len(received), length)
	}
	return nil
}

// The input is left open until all is back: not every server tells the pod of its end without ending the rest.
func measure(session httpstream.Connection, port int, length int64) int {
	errors, data, err := connect(session, 0, port)
	if err != nil {
		fail("%v", err)
	}
	defer session.RemoveStreams(errors, data)
	measured := newLoop(length)
	go io.Copy(data, measured)
	if _, err := io.CopyN(measured, data, length); err != nil {
		text, _ := io.ReadAll(errors)
		fail("%v %s", err, text)
	}
	data.Close()
	return measured.tell()
}

// Begins a connection, has others fail, and finishes the first.
func besideBroken(session httpstream.Connection, port, length int, broken []string) error {
	const first = 1 << 20
	errors, data, err := connect(session, first, port)
	if err != nil {
		return err
	}
	defer session.RemoveStreams(errors, data)
	sent := make([]byte, length)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	// All that comes is read at once: the library has no window, and one stream that is not read stalls all.
	half := length / 2
	begun, whole := make(chan error, 1), make(chan error, 1)
	received := make([]byte, length)
	go func() {
		_, err := io.ReadFull(data, received[:half])
		begun <- err
		if err == nil {
			_, err = io.ReadFull(data, received[half:])
		}
		whole <- err
	}()
	if _, err := data.Write(sent[:half]); err != nil {
		return err
	}
	if err := <-begun; err != nil {
		return fmt.Errorf("the first: %w", err)
	}
	for number, text := range broken {
		port, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		err = echo(session, first+1+number, port, length, false)
		if err != nil && strings.Contains(err.Error(), "stream: ") {
			return fmt.Errorf("port %d is not asked any more: %w", port, err)
		}
		if err == nil {
			return fmt.Errorf("a connection to port %d has not failed", port)
		}
	}
	if _, err := data.Write(sent[half:]); err != nil {
		return err
	}
	data.Close()
	if err := <-whole; err != nil || !bytes.Equal(received, sent) {
		return fmt.Errorf("the first has not got back what it has sent: %w", err)
	}
	return nil
}
