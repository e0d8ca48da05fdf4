//! The byte-level BPE of Qwen2.5 and Qwen3: text in, token ids out.
//!
//! Deliberately knows no templates and no pictures. The data is Qwen's (Apache-2.0), embedded as its
//! list of merges alone: the vocabulary is the 256 bytes followed by what each merge makes, in that
//! order, so that neither tokens nor ids need to be stored.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::super::Error;

const MERGES: &[u8] = include_bytes!("merges.txt.zst");

/// Where text may be cut into pieces; merges never cross a cut.
const PIECES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokens that are never made by merging, numbered from the end of the vocabulary.
pub const ADDED: &[&str] = &[
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// What Qwen3 added after them.
pub const THINKING: &[&str] = &["<tool_response>", "</tool_response>", "<think>", "</think>"];

/// `<|endoftext|>`, which also fills up texts of unequal length.
pub const PAD: u32 = 151_643;
/// `<|im_start|>`, which opens each turn of a conversation.
pub const TURN: u32 = 151_644;
/// `<|im_end|>`, which closes it.
pub const END_OF_TURN: u32 = 151_645;
/// `<|image_pad|>`, the place of a picture.
pub const IMAGE: u32 = 151_655;

pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Unpacks the embedded merges; takes a moment, so it belongs to loading an encoder. `further`: tokens that are
    /// numbered after [`ADDED`].
    pub fn new(further: &[&str]) -> Result<Self, Error> {
        Self::build(further).map_err(Error::Tokenizer)
    }

    fn build(further: &[&str]) -> tokenizers::Result<Self> {
        let merges = String::from_utf8(zstd::decode_all(MERGES)?)?;
        let merges: Vec<(String, String)> = merges
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .collect();
        let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        bytes.sort_unstable();
        let tokens = bytes.into_iter().map(String::from);
        let tokens = tokens.chain(merges.iter().map(|(left, right)| format!("{left}{right}")));
        let vocabulary: Vocab = tokens.zip(0..).collect();

        let model = BPE::builder().vocab_and_merges(vocabulary, merges).build()?;
        let pieces =
            Split::new(SplitPattern::Regex(PIECES.to_owned()), SplitDelimiterBehavior::Isolated, false)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(Some(NFC))?;
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
            pieces.into(),
            ByteLevel::new(false, false, false).into(),
        ])));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        let added = ADDED.iter().chain(further);
        tokenizer.add_tokens(added.map(|content| AddedToken::from(*content, true)))?;
        Ok(Self(tokenizer))
    }

    /// The ids of a text; nothing is added before or after it.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.0.encode_fast(text, false).map_err(Error::Tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, without what only marks its parts.
    pub fn text(&self, ids: &[u32]) -> Result<String, Error> {
        self.0.decode(ids, true).map_err(Error::Tokenizer)
    }
}
