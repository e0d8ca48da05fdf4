//! Launches: each kernel of `kernels/` with its grid, its shared memory and its arguments in order.

/// Where something lies in a machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

/// One argument, as the kernel declares it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    Address(u64),
    Count(u64),
    Int(i32),
    Float(f32),
}

impl From<Address> for Argument {
    fn from(address: Address) -> Self {
        Self::Address(address.0)
    }
}

impl From<usize> for Argument {
    /// Sizes are `int` in the kernels: no side of a tensor comes near two thousand millions.
    fn from(size: usize) -> Self {
        Self::Int(i32::try_from(size).unwrap_or(i32::MAX))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Self::Int(i32::from(value))
    }
}

/// A kernel: its name, and its source in `kernels/` without the suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub name: &'static str,
    pub source: &'static str,
    pub threads: u32,
    pub shared_bytes: u32,
}

/// Every kernel there is.
pub const KERNELS: &[Kernel] = &[
    FP8_TO_BF16,
    LAYER_NORM_MODULATE,
    RMS_NORM,
    NORM_ROPE,
    ROPE_HALVES,
    GATED_SUM,
    ADD_BIAS,
    BIAS_GELU,
    BIAS_GELU_ERF,
    SILU_PRODUCT,
    ATTENTION,
    SOFTMAX_ROWS,
    PICTURE_COLUMNS,
    CHANNEL_NORM,
    CHANNEL_SUM,
    TURN_GROUPS,
    QUANTISE_ROWS,
    RESCALE,
];

const FP8_TO_BF16: Kernel = alone("fp8_to_bf16", "fp8");
const LAYER_NORM_MODULATE: Kernel = meeting("layer_norm_modulate", "norm");
const RMS_NORM: Kernel = meeting("rms_norm", "norm");
const NORM_ROPE: Kernel = alone("norm_rope", "rope");
const ROPE_HALVES: Kernel = alone("rope_halves", "halves");
const GATED_SUM: Kernel = alone("gated_sum", "gate");
const ADD_BIAS: Kernel = alone("add_bias", "bias");
const BIAS_GELU: Kernel = alone("bias_gelu", "bias");
const BIAS_GELU_ERF: Kernel = alone("bias_gelu_erf", "bias");
const SILU_PRODUCT: Kernel = alone("silu_product", "silu");
const ATTENTION: Kernel =
    Kernel { name: "attention", source: "attention", threads: 128, shared_bytes: 2 * 64 * 128 * 2 };
const SOFTMAX_ROWS: Kernel = meeting("softmax_rows", "softmax");
const PICTURE_COLUMNS: Kernel = alone("picture_columns", "conv");
const CHANNEL_NORM: Kernel = alone("channel_norm", "channels");
const CHANNEL_SUM: Kernel = alone("channel_sum", "channels");
const TURN_GROUPS: Kernel = Kernel { shared_bytes: 4 * 1024, ..alone("turn_groups", "turn") };
const QUANTISE_ROWS: Kernel = meeting("quantise_rows", "int8");
const RESCALE: Kernel = alone("rescale", "int8");

/// Threads that need nothing of each other.
const fn alone(name: &'static str, source: &'static str) -> Kernel {
    Kernel { name, source, threads: 256, shared_bytes: 0 }
}

/// Threads that bring a number together.
const fn meeting(name: &'static str, source: &'static str) -> Kernel {
    Kernel { shared_bytes: 32 * 4, ..alone(name, source) }
}

/// The width of a head, for which the kernels of the attention are written.
pub const HEAD_WIDTH: usize = 128;

/// Blocks that keep every unit of a large card busy; more would only begin and end.
const PLENTY: usize = 1 << 12;

/// What a grid may measure in its second direction.
const MOST_ROWS: usize = 65_535;

/// A kernel with everything it needs to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub kernel: Kernel,
    pub grid: [u32; 3],
    pub arguments: Vec<Argument>,
}

/// The sizes of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub rows: usize,
    pub width: usize,
}

impl Launch {
    fn new(kernel: Kernel, grid: [usize; 2], arguments: &[Argument]) -> Self {
        let [x, y] = grid.map(|side| u32::try_from(side.max(1)).unwrap_or(u32::MAX));
        Self { kernel, grid: [x, y, 1], arguments: arguments.to_vec() }
    }

    /// One block a row.
    fn by_row(kernel: Kernel, rows: usize, arguments: &[Argument]) -> Self {
        Self::new(kernel, [rows, 1], arguments)
    }

    /// One warp a head.
    fn by_head(kernel: Kernel, heads: usize, arguments: &[Argument]) -> Self {
        Self::new(kernel, [heads.div_ceil(kernel.threads as usize / 32).min(PLENTY), 1], arguments)
    }

    /// Threads over columns, `pack` each where the width allows; rows in the second direction.
    fn by_column(kernel: Kernel, size: Size, pack: usize, arguments: &[Argument]) -> Self {
        let pack = if size.width.is_multiple_of(pack) { pack } else { 1 };
        let columns = size.width.div_ceil(pack).div_ceil(kernel.threads as usize);
        Self::new(kernel, [columns, size.rows.min(PLENTY)], arguments)
    }
}

/// `dst = bf16(e4m3(src) * scale)`.
pub fn fp8_to_bf16(src: Address, dst: Address, scale: f32, count: usize) -> Launch {
    let blocks = count.div_ceil(8 * FP8_TO_BF16.threads as usize).min(PLENTY);
    let arguments = [src.into(), dst.into(), scale.into(), Argument::Count(count as u64)];
    Launch::new(FP8_TO_BF16, [blocks, 1], &arguments)
}

/// `out = norm(x) * (1 + scale) + shift`, for each row of `x`.
pub fn layer_norm_modulate(
    x: Address,
    [shift, scale]: [Address; 2],
    out: Address,
    size: Size,
    eps: f32,
) -> Launch {
    let arguments = [x.into(), shift.into(), scale.into(), out.into(), size.width.into(), eps.into()];
    Launch::by_row(LAYER_NORM_MODULATE, size.rows, &arguments)
}

/// `out = x / rms(x) * weight`, for each row of `x`.
pub fn rms_norm(x: Address, weight: Address, out: Address, size: Size, eps: f32) -> Launch {
    let arguments = [x.into(), weight.into(), out.into(), size.width.into(), eps.into()];
    Launch::by_row(RMS_NORM, size.rows, &arguments)
}

/// Normalises the heads of `x`, (tokens, heads, [`HEAD_WIDTH`]), and turns them by the tables: (tokens, 64) each.
pub fn norm_rope(
    x: Address,
    weight: Address,
    [cos, sin]: [Address; 2],
    [tokens, heads]: [usize; 2],
    eps: f32,
) -> Launch {
    let arguments =
        [x.into(), weight.into(), cos.into(), sin.into(), tokens.into(), heads.into(), eps.into()];
    Launch::by_head(NORM_ROPE, tokens * heads, &arguments)
}

/// Turns the heads of `x`, as [`norm_rope`] does, but with pairs of the halves of a head.
pub fn rope_halves(x: Address, [cos, sin]: [Address; 2], [tokens, heads]: [usize; 2]) -> Launch {
    let arguments = [x.into(), cos.into(), sin.into(), tokens.into(), heads.into()];
    Launch::by_head(ROPE_HALVES, tokens * heads, &arguments)
}

/// `x += gate * y`.
pub fn gated_sum(x: Address, gate: Address, y: Address, size: Size) -> Launch {
    let arguments = [x.into(), gate.into(), y.into(), size.rows.into(), size.width.into()];
    Launch::by_column(GATED_SUM, size, 8, &arguments)
}

/// `x += bias`.
pub fn add_bias(x: Address, bias: Address, size: Size) -> Launch {
    Launch::by_column(ADD_BIAS, size, 8, &[x.into(), bias.into(), size.rows.into(), size.width.into()])
}

/// `x = gelu(x + bias)`, by tanh.
pub fn bias_gelu(x: Address, bias: Address, size: Size) -> Launch {
    Launch::by_column(BIAS_GELU, size, 8, &[x.into(), bias.into(), size.rows.into(), size.width.into()])
}

/// `x = gelu(x + bias)`, the exact one.
pub fn bias_gelu_erf(x: Address, bias: Address, size: Size) -> Launch {
    let arguments = [x.into(), bias.into(), size.rows.into(), size.width.into()];
    Launch::by_column(BIAS_GELU_ERF, size, 8, &arguments)
}

/// `x = silu(x) * y`.
pub fn silu_product(x: Address, y: Address, size: Size) -> Launch {
    Launch::by_column(SILU_PRODUCT, size, 8, &[x.into(), y.into(), size.rows.into(), size.width.into()])
}

/// The sizes of an attention over heads of [`HEAD_WIDTH`].
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    /// Heads of the keys and values; each serves as many of the queries.
    pub key_heads: usize,
    pub scale: f32,
    /// The last query sees all keys, the one before one less, and so on.
    pub causal: bool,
    /// As many such sequences follow each other, and none looks at another.
    pub sequences: usize,
}

impl Attention {
    /// `out = softmax(scale q kᵀ) v`. `q`, `out`: (queries, heads, width), `k`, `v`: (keys, key heads, width) of each
    /// sequence.
    pub fn launch(&self, [q, k, v]: [Address; 3], out: Address) -> Launch {
        const QUERIES: usize = 64;
        let arguments = [
            q.into(),
            k.into(),
            v.into(),
            out.into(),
            self.queries.into(),
            self.keys.into(),
            (self.heads * HEAD_WIDTH).into(),
            (self.key_heads * HEAD_WIDTH).into(),
            (self.heads / self.key_heads).into(),
            self.scale.into(),
            self.causal.into(),
        ];
        let mut launch = Launch::new(ATTENTION, [self.queries.div_ceil(QUERIES), self.heads], &arguments);
        launch.grid[2] = u32::try_from(self.sequences.max(1)).unwrap_or(u32::MAX);
        launch
    }
}

/// `out = softmax(scale x)`, for each row of `x`, which is `f32`.
pub fn softmax_rows(x: Address, out: Address, size: Size, scale: f32) -> Launch {
    Launch::by_row(SOFTMAX_ROWS, size.rows, &[x.into(), out.into(), size.width.into(), scale.into()])
}

/// What channels have to be a multiple of in the kernels of pictures: as many are read as one word.
pub const CHANNELS: usize = 8;

/// A convolution of a picture, (h, w, channels).
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    /// A multiple of [`CHANNELS`].
    pub channels: usize,
    pub h: usize,
    pub w: usize,
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Zeros above and left of the picture; what is missing below and right is zeros as well.
    pub above: usize,
    pub left: usize,
    /// Each point is repeated so often, both ways, before all else.
    pub zoom: usize,
    pub out_w: usize,
}

impl Convolution {
    /// Numbers of one column: what one point of the result is made of.
    pub fn taps(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// The columns for `rows` rows of the result from `first_row` on: (rows * out_w, taps).
    pub fn columns(&self, x: Address, columns: Address, first_row: usize, rows: usize) -> Launch {
        let arguments = [
            x.into(),
            columns.into(),
            self.channels.into(),
            self.h.into(),
            self.w.into(),
            self.kernel[0].into(),
            self.kernel[1].into(),
            self.stride.into(),
            self.above.into(),
            self.left.into(),
            self.zoom.into(),
            self.out_w.into(),
            first_row.into(),
            rows.into(),
        ];
        let words = self.out_w * self.kernel[1] * self.channels / CHANNELS;
        let blocks = words.div_ceil(PICTURE_COLUMNS.threads as usize);
        Launch::new(PICTURE_COLUMNS, [blocks, rows.min(MOST_ROWS)], &arguments)
    }
}

/// `out = x / |x| * sqrt(channels) * weight` for each place of a picture, (places, channels), and silu of that if asked
/// for.
pub fn channel_norm(x: Address, weight: Address, out: Address, size: Size, with_silu: bool) -> Launch {
    let arguments =
        [x.into(), weight.into(), out.into(), size.rows.into(), size.width.into(), with_silu.into()];
    Launch::by_head(CHANNEL_NORM, size.rows, &arguments)
}

/// `out = sum + bias + added` for each place of a picture, (places, channels).
pub fn channel_sum(sum: Address, bias: Address, added: Option<Address>, out: Address, size: Size) -> Launch {
    let places = Argument::Count(size.rows as u64);
    let added = added.unwrap_or(Address(0));
    let arguments = [sum.into(), bias.into(), added.into(), out.into(), places, size.width.into()];
    let blocks = (size.rows * size.width / CHANNELS).div_ceil(CHANNEL_SUM.threads as usize);
    Launch::new(CHANNEL_SUM, [blocks.min(PLENTY), 1], &arguments)
}

/// The largest group that [`turn_groups`] turns.
pub const LARGEST_GROUP: usize = 1024;

/// Multiplies groups of neighbours by the regular Hadamard matrix of their size, a power of four. `count`: of whole
/// groups.
pub fn turn_groups(x: Address, out: Address, group: usize, count: usize) -> Launch {
    let blocks = count.div_ceil(LARGEST_GROUP).min(PLENTY);
    let arguments = [x.into(), out.into(), group.into(), Argument::Count(count as u64)];
    Launch::new(TURN_GROUPS, [blocks, 1], &arguments)
}

/// Rows of `x` as whole numbers of -127..127 times a scale each.
pub fn quantise_rows(x: Address, out: Address, scales: Address, size: Size) -> Launch {
    let arguments = [x.into(), out.into(), scales.into(), size.width.into()];
    Launch::by_row(QUANTISE_ROWS, size.rows, &arguments)
}

/// What a product of such whole numbers means: `out = sums * row scale * column scale`.
pub fn rescale(sums: Address, [row_scales, column_scales]: [Address; 2], out: Address, size: Size) -> Launch {
    let arguments = [
        sums.into(),
        row_scales.into(),
        column_scales.into(),
        out.into(),
        size.rows.into(),
        size.width.into(),
    ];
    Launch::by_column(RESCALE, size, 4, &arguments)
}
