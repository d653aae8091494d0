//! In a pipe or a log: a line for each step of a layer.

use std::io::{self, Write as _};

use corten_proto::admin::{LayerProgress, layer_progress::Phase};

use super::bars::word;
use crate::cli::image::table::{bytes, short};

#[derive(Default)]
pub(super) struct Lines {
    /// As the layers are.
    phases: Vec<Phase>,
}

impl Lines {
    pub(super) fn show(&mut self, layers: &[LayerProgress]) {
        self.phases.resize(layers.len(), Phase::Waiting);
        let mut out = io::stdout().lock();
        for (known, layer) in self.phases.iter_mut().zip(layers) {
            let phase = layer.phase();
            if phase != *known {
                *known = phase;
                let (digest, size) = (short(&layer.digest), bytes(layer.size));
                // Whoever closed the pipe does not want to know.
                let _ = writeln!(out, "{digest} {} {size}", word(phase));
            }
        }
    }
}
