//! A shim outlives daemons: messages of a later version of the protocol must still be understood.

use corten_proto::shim::reply::Result as Answer;
use corten_proto::shim::request::Call;
use corten_proto::shim::{Done, Hello, HelloReply, Phase, Reply, Request};
use prost::Message;

/// `Hello` as a later version may have it: the old field, and others of every wire type.
#[derive(Clone, PartialEq, Message)]
struct LaterHello {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    build: String,
    #[prost(fixed64, tag = "3")]
    features: u64,
    #[prost(fixed32, tag = "4")]
    flags: u32,
    #[prost(message, optional, tag = "500")]
    nested: Option<HelloReply>,
}

#[derive(Clone, PartialEq, Message)]
struct LaterRequest {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    hello: Option<LaterHello>,
    #[prost(string, tag = "90")]
    trace: String,
}

/// A request with a call that this version does not have.
#[derive(Clone, PartialEq, Message)]
struct UnknownCall {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "77")]
    checkpoint: Option<Done>,
}

#[derive(Clone, PartialEq, Message)]
struct LaterHelloReply {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(int32, tag = "2")]
    shim_pid: i32,
    #[prost(int32, tag = "3")]
    init_pid: i32,
    #[prost(int32, tag = "4")]
    phase: i32,
    #[prost(string, repeated, tag = "90")]
    abilities: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct LaterReply {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "3")]
    hello: Option<LaterHelloReply>,
}

#[test]
fn a_hello_of_version_2_with_further_fields_is_understood() {
    let nested = Some(HelloReply {
        version: 2,
        shim_pid: 7,
        init_pid: 8,
        phase: 1,
        started_at_ns: 9,
    });
    let hello = LaterHello {
        version: 2,
        build: "next".to_owned(),
        features: u64::MAX,
        flags: 1,
        nested,
    };
    let later = LaterRequest {
        id: 5,
        hello: Some(hello),
        trace: "00-ab".to_owned(),
    };
    let request = Request::decode(later.encode_to_vec().as_slice()).unwrap();
    assert_eq!(
        request,
        Request {
            id: 5,
            call: Some(Call::Hello(Hello { version: 2 }))
        }
    );
}

#[test]
fn a_call_that_is_not_known_keeps_its_id_so_that_it_can_be_refused() {
    let later = UnknownCall {
        id: 9,
        checkpoint: Some(Done {}),
    };
    let request = Request::decode(later.encode_to_vec().as_slice()).unwrap();
    assert_eq!(request, Request { id: 9, call: None });
}

#[test]
fn a_phase_that_is_not_known_does_not_spoil_the_reply() {
    let hello = LaterHelloReply {
        version: 2,
        shim_pid: 41,
        init_pid: 42,
        phase: 17,
        abilities: vec!["attach".to_owned()],
    };
    let later = LaterReply {
        id: 3,
        hello: Some(hello),
    };
    let reply = Reply::decode(later.encode_to_vec().as_slice()).unwrap();
    let Some(Answer::Hello(hello)) = reply.result else {
        panic!("{reply:?}")
    };
    assert_eq!(
        (reply.id, hello.version, hello.init_pid, hello.phase),
        (3, 2, 42, 17)
    );
    assert!(Phase::try_from(hello.phase).is_err());
}

#[test]
fn a_hello_of_an_older_side_reads_as_version_0() {
    let request = Request::decode([0x08, 1, 0x12, 0].as_slice()).unwrap();
    assert_eq!(
        request,
        Request {
            id: 1,
            call: Some(Call::Hello(Hello { version: 0 }))
        }
    );
}

#[test]
fn a_frame_that_was_cut_is_an_error() {
    let whole = Request {
        id: 1,
        call: Some(Call::Hello(Hello { version: 300 })),
    }
    .encode_to_vec();
    for length in 3..whole.len() {
        assert!(
            Request::decode(&whole[..length]).is_err(),
            "{length} of {} bytes",
            whole.len()
        );
    }
}
