import io.grpc.CallOptions;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.stub.ClientCalls;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;

/** A CRI client of grpc-java, with its defaults: prints what three calls of Version answer on one connection. */
final class Client {
    private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] value) {
            return new ByteArrayInputStream(value);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    public static void main(String[] args) {
        MethodDescriptor<byte[], byte[]> version =
                MethodDescriptor.<byte[], byte[]>newBuilder(new Bytes(), new Bytes())
                        .setType(MethodDescriptor.MethodType.UNARY)
                        .setFullMethodName("runtime.v1.RuntimeService/Version")
                        .build();
        ManagedChannel channel =
                Grpc.newChannelBuilder("unix://" + args[0], InsecureChannelCredentials.create()).build();
        for (int call = 0; call < 3; call++) {
            byte[] answer = ClientCalls.blockingUnaryCall(channel, version, CallOptions.DEFAULT, new byte[0]);
            System.out.println(new String(answer, StandardCharsets.ISO_8859_1));
        }
        channel.shutdownNow();
    }
}
