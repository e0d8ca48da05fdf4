//! Filters against what kornia and PyTorch make of the same pictures.

use comfyd::image::{canny, load};

use crate::decoding::{golden, picture};

#[test]
fn edges_are_those_of_kornia() {
    let (image, _) = load(&golden("input/scene.png")).unwrap();
    for (low, high, recorded) in [(0.1, 0.3, "canny_10_30.png"), (0.2, 0.25, "canny_20_25.png")] {
        let edges = canny(&image, low, high).to_image().picture(0);
        assert_eq!(edges, picture(recorded).to_rgb(), "{recorded}");
    }
}
