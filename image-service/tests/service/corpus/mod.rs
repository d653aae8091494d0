//! Archives and manifests made to harm, one line each: what is refused, with which words, and what is contained. Those that
//! need more than a line are in `hostile` and `bad`.

mod archives;
mod manifests;

use std::fs;

use crate::fake::Fake;
use crate::image::image;
use crate::site::Site;
use crate::tree::{Pack, Tar};

/// What an archive does, the archive, and the words of its refusal if it is not taken in.
struct Case(&'static str, Tar, Option<&'static str>);

/// linux/magic.h
const EXT4_SUPER_MAGIC: i64 = 0xEF53;

struct Place {
    site: Site,
}

impl Place {
    async fn new() -> Self {
        Self::new_in(Site::new().await)
    }

    fn new_in(site: Site) -> Self {
        fs::create_dir(site.path("outside")).unwrap();
        Self { site }
    }

    /// Pulls it; nothing is outside, nothing is left, and what came in is what its archive says.
    async fn check(
        &self,
        name: &str,
        layer: Vec<u8>,
        pack: Pack,
        refused: Option<&str>,
    ) -> Result<(), String> {
        let registry = Fake::serving(image(name, &[(layer, pack)]), |_| None).await;
        let reference = registry.reference();
        let pulled = self.site.images.pull(&reference, None).await;
        let outside = fs::read_dir(self.site.path("outside")).unwrap();
        assert_eq!(outside.count(), 0, "{name} wrote outside");
        self.site.assert_clean();
        match (pulled, refused) {
            (Ok(image), None) => {
                self.site.assert_verified().await;
                self.site.images.remove(&image.id).await.unwrap();
                // Else the layer's last entries would come in the way of deleting the site.
                self.site.assert_clean();
                Ok(())
            }
            (Err(error), Some(words)) if error.to_string().contains(words) => Ok(()),
            (Ok(_), Some(_)) => Err(format!("{name} is taken in")),
            (Err(error), _) => Err(format!("{name}: {error}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_archive_has_its_fate() {
    let place = Place::new().await;
    let mut wrong = Vec::new();
    for Case(name, layer, refused) in archives::all() {
        wrong.extend(
            place
                .check(name, layer.bytes(), Pack::Gzip, refused)
                .await
                .err(),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// In memory, where inodes are cheap.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_entries() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = Place::new_in(Site::new_in(dir).await);
    let mut layer = Tar::new().dir("d");
    for number in 0..1_000_000 {
        layer = layer.symlink(&format!("d/{number}"), "x");
    }
    place
        .check("a million links", layer.bytes(), Pack::Zstd, None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_names_for_a_file_than_it_can_have() {
    let mut layer = Tar::new().file("0", b"x");
    for number in 1..70_000 {
        layer = layer.hardlink(&number.to_string(), "0");
    }
    // The limits of ext4, XFS and btrfs differ, and tmpfs has none.
    let site = Site::new().await;
    let kind = rustix::fs::statfs(site.root()).unwrap().f_type;
    let refused = (kind == EXT4_SUPER_MAGIC).then_some("Too many links");
    let place = Place::new_in(site);
    place
        .check("names", layer.bytes(), Pack::Zstd, refused)
        .await
        .unwrap();
}

/// A lower layer's link does not lead an upper layer's entries anywhere: each is unpacked alone.
#[tokio::test(flavor = "multi_thread")]
async fn links_between_layers_lead_nowhere() {
    let place = Place::new().await;
    let outside = place.site.path("outside");
    let below = Tar::new().symlink("d", outside.to_str().unwrap()).bytes();
    let above = Tar::new().file("d/x", b"mine").bytes();
    let layers = [(below, Pack::Gzip), (above, Pack::Gzip)];
    let registry = Fake::serving(image("layers", &layers), |_| None).await;
    let reference = registry.reference();
    place.site.images.pull(&reference, None).await.unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let top = place.site.top_layer(&reference);
    assert_eq!(fs::read(top.join("d/x")).unwrap(), b"mine");
}
