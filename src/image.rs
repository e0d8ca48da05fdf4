//! Pixels and files of pixels: PNG, JPEG and WebP in and out, text chunks, resizing, masks.
//!
//! Deliberately knows no latents and no nodes.
