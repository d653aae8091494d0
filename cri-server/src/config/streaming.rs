//! The section `[streaming]`: the server of exec, attach and port-forward.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Error, flags::set, invalid, within};

/// Seconds.
const HOUR: u64 = 60 * 60;
/// Seconds.
const YEAR: u64 = 365 * 24 * HOUR;
/// More than there are descriptors for.
const MOST_SESSIONS: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Streaming {
    pub(crate) address: IpAddr,
    /// 0: any that is free.
    pub(crate) port: u16,
    /// Seconds.
    idle_timeout: u64,
    /// Seconds.
    creation_timeout: u64,
    /// Seconds.
    hangup_grace: u64,
    pub(crate) max_sessions: usize,
    tls_certificate: PathBuf,
    tls_key: PathBuf,
    tls_min_version: TlsVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, clap::ValueEnum)]
pub(crate) enum TlsVersion {
    #[serde(rename = "1.2")]
    #[value(name = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    #[value(name = "1.3")]
    Tls13,
}

/// What TLS is served with.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// PEM, with the chain.
    pub(crate) certificate: PathBuf,
    /// PEM.
    pub(crate) key: PathBuf,
    pub(crate) min_version: TlsVersion,
}

/// The section's flags of `corten serve`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct StreamingFlags {
    /// Where exec, attach and port-forward are served
    #[arg(long, value_name = "IP")]
    stream_address: Option<IpAddr>,
    /// 0: any that is free
    #[arg(long, value_name = "PORT")]
    stream_port: Option<u16>,
    /// Seconds without a byte after which a session ends
    #[arg(long, value_name = "SECONDS")]
    stream_idle_timeout: Option<u64>,
    /// Seconds that a client may take to open its streams
    #[arg(long, value_name = "SECONDS")]
    stream_creation_timeout: Option<u64>,
    /// Seconds between SIGHUP and SIGKILL for a command whose client has gone
    #[arg(long, value_name = "SECONDS")]
    stream_hangup_grace: Option<u64>,
    /// Sessions at once
    #[arg(long, value_name = "N")]
    max_stream_sessions: Option<usize>,
    /// PEM file of the certificate
    #[arg(long, value_name = "FILE")]
    stream_tls_certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE")]
    stream_tls_key: Option<PathBuf>,
    #[arg(long, value_enum)]
    stream_tls_min_version: Option<TlsVersion>,
}

impl StreamingFlags {
    pub(super) fn apply(&self, streaming: &mut Streaming) {
        set(&mut streaming.address, &self.stream_address);
        set(&mut streaming.port, &self.stream_port);
        set(&mut streaming.idle_timeout, &self.stream_idle_timeout);
        set(
            &mut streaming.creation_timeout,
            &self.stream_creation_timeout,
        );
        set(&mut streaming.hangup_grace, &self.stream_hangup_grace);
        set(&mut streaming.max_sessions, &self.max_stream_sessions);
        set(&mut streaming.tls_certificate, &self.stream_tls_certificate);
        set(&mut streaming.tls_key, &self.stream_tls_key);
        set(&mut streaming.tls_min_version, &self.stream_tls_min_version);
    }
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            idle_timeout: 4 * 60 * 60,
            creation_timeout: 30,
            hangup_grace: 10,
            max_sessions: 1000,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_min_version: TlsVersion::Tls12,
        }
    }
}

impl Streaming {
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout)
    }

    pub(crate) fn hangup_grace(&self) -> Duration {
        Duration::from_secs(self.hangup_grace)
    }

    /// `None`: plain HTTP.
    pub(crate) fn tls(&self) -> Option<Tls> {
        let is_set = !self.tls_certificate.as_os_str().is_empty();
        is_set.then(|| Tls {
            certificate: self.tls_certificate.clone(),
            key: self.tls_key.clone(),
            min_version: self.tls_min_version,
        })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        within("streaming.idle_timeout", self.idle_timeout, 1..=YEAR, "s")?;
        let creation = self.creation_timeout;
        within("streaming.creation_timeout", creation, 1..=HOUR, "s")?;
        within("streaming.hangup_grace", self.hangup_grace, 0..=HOUR, "s")?;
        let sessions = self.max_sessions;
        within(
            "streaming.max_sessions",
            sessions,
            1..=MOST_SESSIONS,
            "sessions",
        )?;
        let files = [
            ("streaming.tls_certificate", &self.tls_certificate),
            ("streaming.tls_key", &self.tls_key),
        ];
        let some = files.iter().any(|(_, path)| !path.as_os_str().is_empty());
        for (key, path) in files {
            if some && !path.is_absolute() {
                let reason = "want an absolute path: certificate and key go together";
                return Err(invalid(key, path.display(), reason));
            }
        }
        Ok(())
    }

    pub(crate) fn creation_timeout(&self) -> Duration {
        Duration::from_secs(self.creation_timeout)
    }
}
