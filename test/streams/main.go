// A client of streaming URLs, with the library that kubectl has: what it sends and hears is Kubernetes' own.
//
//	corten-streams exec URL [--websocket] [--stdin] [--tty [--sizes 80x24,100x50]] [--no-stdout] [--no-stderr]
//	    [--protocols v3.channel.k8s.io,...]
//	corten-streams exec URL [--websocket] --through N
//	corten-streams forward URL [--websocket] --port N --connections N --bytes N [--resets N] [--broken PORT,PORT]
//	corten-streams forward URL [--websocket] --port N --through N
//	corten-streams hold - [--websocket]
package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"

	restclient "k8s.io/client-go/rest"
)

func main() {
	if len(os.Args) < 3 {
		fail("usage: corten-streams exec|forward|hold URL [flags]")
	}
	kind, target := os.Args[1], os.Args[2]
	address, err := url.Parse(target)
	if err != nil {
		fail("URL %q: %v", target, err)
	}
	flags := flag.NewFlagSet(kind, flag.ExitOnError)
	common := client{url: address, config: &restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}}
	flags.BoolVar(&common.websocket, "websocket", false, "WebSocket instead of SPDY")
	switch kind {
	case "exec":
		os.Exit(execute(&common, flags, os.Args[3:]))
	case "forward":
		os.Exit(forward(&common, flags, os.Args[3:]))
	case "hold":
		os.Exit(hold(&common, flags, os.Args[3:]))
	default:
		fail("%q is none of exec, forward and hold", kind)
	}
}

// What all kinds of session need, once the flags have been parsed.
type client struct {
	url       *url.URL
	config    *restclient.Config
	websocket bool
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "corten-streams: "+format+"\n", args...)
	os.Exit(125)
}
