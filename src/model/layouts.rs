//! What the published files hold, tensor by tensor.

use crate::weights::{BadLine, Layout};

/// A published file: its usual name, the model folder for it, its size in bytes, and the list of its tensors.
pub struct Published {
    pub name: &'static str,
    pub folder: &'static str,
    pub bytes: u64,
    list: &'static str,
    /// Numbered rows of layers in it, each with how it begins and what people call it.
    pub rows: &'static [(&'static str, Row)],
}

/// A row of layers that a file may have fewer of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Blocks of a diffusion model.
    Blocks,
    /// Layers of a language model.
    TextLayers,
}

/// The three files of Qwen-Image-Edit. Those of Qwen-Image and of other dates have the same tensors.
pub const PUBLISHED: [Published; 3] = [
    Published {
        name: "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
        folder: "diffusion_models",
        bytes: 20_430_635_136,
        list: include_str!("../../models/layouts/qwen_image.txt"),
        rows: &[("transformer_blocks.", Row::Blocks)],
    },
    Published {
        name: "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        folder: "text_encoders",
        bytes: 9_384_670_680,
        list: include_str!("../../models/layouts/qwen_2.5_vl_7b_fp8_scaled.txt"),
        rows: &[("model.layers.", Row::TextLayers)],
    },
    Published {
        name: "qwen_image_vae.safetensors",
        folder: "vae",
        bytes: 253_806_246,
        list: include_str!("../../models/layouts/qwen_image_vae.txt"),
        rows: &[],
    },
];

impl Published {
    /// All of its tensors.
    pub fn layout(&self) -> Result<Layout, BadLine> {
        Layout::parse(self.list)
    }

    /// Its tensors, with no more layers in a row than `most` says.
    pub fn shortened(&self, most: impl Fn(Row) -> Option<usize>) -> Result<Layout, BadLine> {
        let limits = self.rows.iter().filter_map(|(start, row)| Some((*start, most(*row)?)));
        Ok(limits.fold(self.layout()?, |layout, (start, most)| layout.first_of(start, most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_make_files_of_the_published_sizes() {
        let counts = [1933, 1446, 194];
        for (published, count) in PUBLISHED.iter().zip(counts) {
            let layout = published.layout().unwrap();
            assert_eq!((layout.count(), layout.file_bytes()), (count, published.bytes), "{}", published.name);
        }
    }

    #[test]
    fn rows_can_be_cut_short() {
        let [diffusion, text, _] = &PUBLISHED;
        let four = diffusion.shortened(|row| (row == Row::Blocks).then_some(4)).unwrap();
        assert_eq!(four.count(), 1933 - 56 * 32);
        let two = text.shortened(|row| (row == Row::TextLayers).then_some(2)).unwrap();
        assert_eq!(two.count(), 1446 - 26 * (2 + 4 + 3 + 3 + 14));
    }
}
