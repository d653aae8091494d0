// A CRI client of grpc-go: prints what three calls of Version answer on one connection, for each way to name the socket.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
)

// Messages as they are.
type raw struct{}

func (raw) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }

func (raw) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "proto" }

var _ encoding.Codec = raw{}

func main() {
	path := os.Args[1]
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	})
	call("unix://" + path)
	// The target is the authority then, as it is or escaped.
	call("passthrough:///"+path, dial)
	call("passthrough:///"+url.PathEscape(path), dial)
}

func call(target string, options ...grpc.DialOption) {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	client, err := grpc.NewClient(target, options...)
	if err != nil {
		log.Fatal(target, ": ", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 3 {
		var request, answer []byte
		err := client.Invoke(ctx, "/runtime.v1.RuntimeService/Version", &request, &answer, grpc.ForceCodec(raw{}))
		if err != nil {
			log.Fatal(target, ": ", err)
		}
		fmt.Printf("%s\n", answer)
	}
}
