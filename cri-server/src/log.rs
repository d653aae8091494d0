//! Structured logs on standard error.

use std::io::stderr;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use crate::config::{Config, LogFormat, LogLevel};

const OURS: [&str; 3] = ["corten", "corten_image", "corten_cni"];

/// Starts logging as `config` says.
pub(crate) fn init(config: &Config) {
    let level = match config.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries speak of frames and handshakes: only what they warn of is for an operator.
    let ours = OURS.iter().map(|name| format!("{name}={level}").parse());
    let filter = ours
        .flatten()
        .fold(EnvFilter::new("warn"), EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_target(false);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
