//! Images that a container has as volumes: found, and their layers held.

use corten_image::LayerHold;
use corten_proto::{cri, layout, record};

use crate::{
    context::Context,
    error::{Error, Result},
    spec,
};

/// One mount's image.
pub(super) struct ImageVolume {
    /// Its place among the request's mounts.
    mount: usize,
    id: String,
    layers: LayerHold,
}

/// All images that mounts name.
pub(super) struct ImageVolumes(Vec<ImageVolume>);

impl ImageVolumes {
    /// From memory alone.
    ///
    /// # Errors
    /// [`Error::ImageVolume`] if an image is not here.
    pub(super) fn hold(cx: &Context, mounts: &[cri::Mount]) -> Result<Self> {
        let images = mounts.iter().enumerate().filter_map(|(i, mount)| {
            let name = &mount.image.as_ref()?.image;
            Some(hold(cx, i, name))
        });
        images.collect::<Result<_>>().map(Self)
    }

    /// With an empty directory as the lowest layer: overlayfs takes no single one.
    pub(super) fn lower_dirs(&self, cx: &Context) -> spec::ImageVolumes {
        let empty = layout::empty(&cx.config.root);
        let volumes = self.0.iter().map(|volume| {
            let mut lower = volume.layers.lower_dirs().to_vec();
            lower.push(empty.clone());
            (volume.mount, lower)
        });
        volumes.collect()
    }

    pub(super) fn records(&self) -> Vec<record::ImageVolume> {
        let volumes = self.0.iter().map(|volume| record::ImageVolume {
            image_id: volume.id.clone(),
            layers: volume.layers.names().to_vec(),
        });
        volumes.collect()
    }

    /// Adds the images' ids to the mounts that the status will tell (CRI, `ImageSpec.image_ref`).
    pub(super) fn tell(&self, mounts: &mut [cri::Mount]) {
        for volume in &self.0 {
            if let Some(image) = mounts[volume.mount].image.as_mut() {
                image.image_ref.clone_from(&volume.id);
            }
        }
    }

    pub(super) fn into_layers(self) -> impl Iterator<Item = LayerHold> {
        self.0.into_iter().map(|volume| volume.layers)
    }
}

fn hold(cx: &Context, mount: usize, name: &str) -> Result<ImageVolume> {
    let absent = || Error::ImageVolume {
        field: format!("config.mounts[{mount}].image.image"),
        reason: format!("image {name:?} does not exist"),
    };
    let image = cx.images.resolve(name).ok_or_else(absent)?;
    // Removed between the two looks.
    let layers = cx.images.hold(&image).ok_or_else(absent)?;
    Ok(ImageVolume {
        mount,
        id: image.id.clone(),
        layers,
    })
}
