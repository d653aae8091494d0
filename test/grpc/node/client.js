// A CRI client of @grpc/grpc-js, with its defaults: prints what three calls of Version answer on one connection.
"use strict";

const grpc = require("@grpc/grpc-js");

const bytes = { serialize: (value) => value, deserialize: (value) => value };
const client = new grpc.Client("unix:" + process.argv[2], grpc.credentials.createInsecure());

function version(left) {
  if (left === 0) {
    client.close();
    return;
  }
  const path = "/runtime.v1.RuntimeService/Version";
  client.makeUnaryRequest(path, bytes.serialize, bytes.deserialize, Buffer.alloc(0), (error, answer) => {
    if (error) throw error;
    console.log(answer.toString("latin1"));
    version(left - 1);
  });
}

version(3);
