//! How a command has ended, as its client is told.

use serde::Serialize;

use super::Output;

/// The end of a command: its exit code, or why it could not be run, or its end is not known.
type Outcome = Result<i32, String>;

/// The client's error stream.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` in version 1 of the protocol.
    pub(super) stream: Option<Output>,
    /// From version 4 on.
    pub(super) is_json: bool,
}

/// `Status` of Kubernetes' `meta/v1`, as much of it as clients read.
#[derive(Debug, Serialize)]
struct Status<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Debug, Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

impl Writer {
    /// Tells it, and ends the stream.
    pub(super) async fn write(self, outcome: &Outcome) {
        let Some(stream) = self.stream else {
            return;
        };
        let text = match self.is_json {
            true => json(outcome),
            false => text(outcome),
        };
        // A client that has gone does not want to know.
        if !text.is_empty() && stream.send(text.into()).await.is_err() {
            return;
        }
        let _ = stream.finish().await;
    }
}

/// Empty after a success.
fn text(outcome: &Outcome) -> String {
    match outcome {
        Ok(0) => String::new(),
        Ok(code) => {
            format!("command terminated with non-zero exit code: exit status {code}")
        }
        Err(why) => why.clone(),
    }
}

fn json(outcome: &Outcome) -> String {
    let message = text(outcome);
    let (status, reason, code) = match outcome {
        Ok(0) => ("Success", "", None),
        Ok(_) => ("Failure", "NonZeroExitCode", None),
        Err(_) => ("Failure", "InternalError", Some(500)),
    };
    let details = match outcome {
        Ok(code @ 1..) => Some(Details {
            causes: [Cause {
                reason: "ExitCode",
                message: code.to_string(),
            }],
        }),
        _ => None,
    };
    let status = Status {
        status,
        message: &message,
        reason,
        details,
        code,
    };
    serde_json::to_string(&status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_that_kubectl_reads() {
        assert_eq!(json(&Ok(0)), r#"{"status":"Success"}"#);
        assert_eq!(
            json(&Ok(7)),
            r#"{"status":"Failure","message":"command terminated with non-zero exit code: exit status 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#
        );
        assert_eq!(
            json(&Err("no such file".into())),
            r#"{"status":"Failure","message":"no such file","reason":"InternalError","code":500}"#
        );
        assert_eq!(text(&Ok(0)), "");
    }
}
