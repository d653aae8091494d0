//! On a terminal: a bar for each layer, redrawn in place.

use corten_proto::admin::{LayerProgress, layer_progress::Phase};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::image::table::short;

const BAR: &str = "{prefix} {msg:<9} [{wide_bar:.green}] {binary_bytes:>10}/{binary_total_bytes:<10} {binary_bytes_per_sec:>12}";
/// Once there is nothing to fetch any more.
const STILL: &str = "{prefix} {msg:<9} [{wide_bar:.green}] {binary_total_bytes:>10}";

pub(super) struct Bars {
    all: MultiProgress,
    /// As the layers are.
    bars: Vec<(ProgressBar, Phase)>,
}

impl Default for Bars {
    fn default() -> Self {
        Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
            bars: Vec::new(),
        }
    }
}

impl Bars {
    pub(super) fn show(&mut self, layers: &[LayerProgress]) {
        for layer in &layers[self.bars.len().min(layers.len())..] {
            let bar = self.all.add(ProgressBar::new(layer.size));
            bar.set_style(style(BAR));
            bar.set_prefix(short(&layer.digest));
            bar.set_message(word(Phase::Waiting));
            self.bars.push((bar, Phase::Waiting));
        }
        for ((bar, known), layer) in self.bars.iter_mut().zip(layers) {
            let phase = layer.phase();
            bar.set_position(layer.fetched);
            if phase == *known {
                continue;
            }
            *known = phase;
            bar.set_message(word(phase));
            match phase {
                Phase::Waiting | Phase::Fetching => {}
                Phase::Unpacking => bar.set_style(style(STILL)),
                Phase::Done => {
                    bar.set_style(style(STILL));
                    bar.finish();
                }
            }
        }
    }
}

impl Drop for Bars {
    /// A pull's last words may come too early for some layers.
    fn drop(&mut self) {
        for (bar, phase) in &self.bars {
            if *phase != Phase::Done {
                bar.abandon();
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The tests see that the templates are good.
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Fetching => "fetching",
        Phase::Unpacking => "unpacking",
        Phase::Done => "done",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_good() {
        for template in [BAR, STILL] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
