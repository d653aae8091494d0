#![forbid(unsafe_code)]
//! The images of a node: pulled from registries or loaded from archives, verified, unpacked, kept.
//!
//! [`ImageService`] is the facade. Below it, from the network to the disk: `registry` speaks to
//! mirrors, `pull` and `load` decide what is needed, `unpack` turns a layer's stream into a
//! directory, `tar_split` can turn it back, `store` makes it durable and knows who uses it. Nothing here knows the CRI.

mod service;

mod sharing;

mod pull;

mod load;

mod save;

mod layers;

mod content;

mod progress;

mod blocking;

mod reference;

mod digest;

mod json;

mod manifest;

mod platform;

mod pins;

mod config;

mod registry;

mod policy;

mod unpack;

mod tar_split;

mod tap;

mod store;

mod verify;

mod space;

mod error;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use config::{Image, ImageConfig};
pub use error::{Attempt, Error, ErrorKind};
pub use policy::{PolicyRule, Requirement};
pub use progress::{LayerProgress, Phase, Progress};
pub use registry::Auth;
pub use service::{ImageService, Options};
pub use space::{DiskUsage, Inspection, LayerUsage};
pub use store::{LayerHold, Usage};
pub use verify::{ImageRepair, LayerFault, Verification};
