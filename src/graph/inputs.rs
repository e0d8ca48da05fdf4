//! How a node declares its inputs: ordinary Rust values that feed validation, defaults and
//! `/object_info` alike. [`inputs!`](crate::inputs) and [`choices!`](crate::choices) are the only
//! macros a node author meets.

use std::marker::PhantomData;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::node::{NodeError, Result};
use super::value::{Arg, Args, Socket, Value};

/// The declaration of one input, in ComfyUI's vocabulary.
#[derive(Clone, Debug)]
pub struct InputSpec {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// Computed only when the node asks for it, see [`Node::needs`](super::Node::needs).
    pub lazy: bool,
    /// `default`, `min`, `max`, `step`, `tooltip`, ... as `/object_info` shows them.
    pub options: Map<String, Json>,
    /// For an input `combo.name`: the words of the input `combo` that bring it along; then it is required.
    /// Empty for an input of its own.
    pub shown_by: &'static [&'static str],
    /// Words of versions after the one that `/object_info` describes: graphs may use them, and no list has them.
    pub unlisted: &'static [&'static str],
    /// For one of the inputs `group.name0`, `group.name1`, ... or `group.a`, `group.b`, ...: the group, of which clients
    /// show one more when the last is filled.
    pub grows: Option<Growth>,
}

/// A group of inputs of one type, of which some are required and the others come as they are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    pub group: &'static str,
    /// What one of them is: what each is called before its number, if they are numbered.
    pub item: &'static str,
    /// Whether they are called by numbers, from 0; else each has a name of its own.
    pub numbered: bool,
    /// How many are required.
    pub least: usize,
    /// Their full names.
    pub names: &'static [&'static str],
}

impl Growth {
    /// The declarations of the whole group.
    pub fn specs<T: Input>(self) -> impl Iterator<Item = InputSpec> {
        self.names.iter().enumerate().map(move |(index, name)| InputSpec {
            required: index < self.least,
            grows: Some(self),
            ..Widget::<T>::new().spec(name)
        })
    }

    /// Those that are given, in order, each with its name inside the group.
    pub fn read<T: Input>(self, args: &Args) -> Result<Vec<(&'static str, T)>> {
        let given = |(full, name)| Option::<T>::read(full, args.get(full)).map(|value| Some((name, value?)));
        self.names
            .iter()
            .copied()
            .zip(self.own_names())
            .filter_map(|names| given(names).transpose())
            .collect()
    }

    /// Their names inside the group.
    pub fn own_names(self) -> impl Iterator<Item = &'static str> {
        self.names.iter().map(|name| name.rsplit_once('.').map_or(*name, |(_, own)| own))
    }
}

impl InputSpec {
    /// The input whose word decides whether this one is there, and the name beside it.
    pub fn owner(&self) -> Option<(&'static str, &'static str)> {
        if self.shown_by.is_empty() { None } else { self.name.rsplit_once('.') }
    }

    /// Whether one of these inputs, given as the prompt has them, brings this one along.
    pub fn is_shown(&self, inputs: &Map<String, Json>) -> bool {
        let word = self.owner().and_then(|(owner, _)| inputs.get(owner)?.as_str());
        word.is_some_and(|word| self.shown_by.contains(&word))
    }
}

/// What may be put into an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Int,
    Float,
    Text,
    Boolean,
    /// A closed set of words.
    Choice(Vec<&'static str>),
    /// Names that the host lists at the moment somebody asks, see [`Library`].
    Files(&'static str),
    /// Only a link to an output of this type (a comma-separated set; `*` is any).
    Link(&'static str),
}

impl Kind {
    /// ComfyUI's word for the type.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::Float => "FLOAT",
            Self::Text => "STRING",
            Self::Boolean => "BOOLEAN",
            Self::Choice(_) | Self::Files(_) => "COMBO",
            Self::Link(name) => name,
        }
    }
}

/// Lists what changes while the server runs: files in model folders, pictures in the input folder.
pub trait Library {
    /// Names under ComfyUI's word for the folder (`"loras"`, `"input"`, ...), sorted.
    fn names(&self, folder: &str) -> Vec<String>;
}

impl Library for () {
    fn names(&self, _folder: &str) -> Vec<String> {
        Vec::new()
    }
}

/// How a Rust type is read from an input.
pub trait Input: Sized {
    const REQUIRED: bool = true;
    fn kind() -> Kind;
    /// Reads the argument of input `name`; `None` when it is absent.
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self>;
}

/// A set of inputs: the one declaration that `/object_info`, validation and execution read.
pub trait Inputs: Sized {
    fn specs() -> Vec<InputSpec>;
    fn read(args: &Args) -> Result<Self>;
}

/// A node without inputs.
impl Inputs for () {
    fn specs() -> Vec<InputSpec> {
        Vec::new()
    }
    fn read(_args: &Args) -> Result<Self> {
        Ok(())
    }
}

/// Builds the options of one input; `T` ties them to the type of the field.
pub struct Widget<T> {
    kind: Kind,
    lazy: bool,
    options: Map<String, Json>,
    shown_by: &'static [&'static str],
    unlisted: &'static [&'static str],
    of: PhantomData<T>,
}

/// An input that is there only while another one has certain words is absent else.
impl<T: Input> Widget<Option<T>> {
    /// See [`InputSpec::shown_by`].
    #[must_use]
    pub fn shown_by(mut self, words: &'static [&'static str]) -> Self {
        self.shown_by = words;
        self
    }
}

impl<T: Input> Widget<T> {
    fn new() -> Self {
        Self {
            kind: T::kind(),
            lazy: false,
            options: Map::new(),
            shown_by: &[],
            unlisted: &[],
            of: PhantomData,
        }
    }

    /// See [`InputSpec::unlisted`].
    #[must_use]
    pub fn unlisted(mut self, words: &'static [&'static str]) -> Self {
        self.unlisted = words;
        self
    }

    /// Any further option, under its `/object_info` name.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// The value a client starts with.
    #[must_use]
    pub fn default(self, value: impl Into<Json>) -> Self {
        self.with("default", value)
    }

    #[must_use]
    pub fn tooltip(self, text: &str) -> Self {
        self.with("tooltip", text)
    }

    /// See [`InputSpec::lazy`].
    #[must_use]
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self.with("lazy", true)
    }

    pub fn spec(self, name: &'static str) -> InputSpec {
        let Self { kind, lazy, options, shown_by, unlisted, .. } = self;
        InputSpec { name, kind, required: T::REQUIRED, lazy, options, shown_by, unlisted, grows: None }
    }
}

/// An input that only a link can fill.
pub fn socket<T: Input>() -> Widget<T> {
    Widget::new()
}

/// One word of a closed set; without a default clients preselect the first.
pub fn choice<T: Input + Choice>() -> Widget<T> {
    Widget::new()
}

/// One of the names the host lists under `folder`.
pub fn files(folder: &'static str) -> Widget<FileName> {
    Widget { kind: Kind::Files(folder), ..Widget::new() }
}

/// Free text.
pub fn text<T: Input + Text>() -> Widget<T> {
    Widget::new()
}

pub fn boolean<T: Input + Flag>(default: bool) -> Widget<T> {
    Widget::new().with("default", default)
}

pub fn int<T: Input + Numeric<Number = i64>>(default: i64) -> Widget<T> {
    Widget::new().with("default", default)
}

pub fn float<T: Input + Numeric<Number = f64>>(default: f64) -> Widget<T> {
    Widget::new().with("default", default)
}

impl<T: Input + Text> Widget<T> {
    #[must_use]
    pub fn multiline(self) -> Self {
        self.with("multiline", true)
    }

    /// Multi-line text in which the client expands `{a|b}`: every prompt field.
    #[must_use]
    pub fn prompt(self) -> Self {
        self.multiline().with("dynamicPrompts", true)
    }
}

impl<T: Input + Numeric> Widget<T> {
    /// Smallest and largest value accepted.
    #[must_use]
    pub fn range(self, min: T::Number, max: impl Into<Json>) -> Self {
        self.with("min", min).with("max", max)
    }

    /// What one click of the client's spinner adds; never enforced.
    #[must_use]
    pub fn step(self, step: T::Number) -> Self {
        self.with("step", step)
    }

    /// What the client rounds typed values to.
    #[must_use]
    pub fn round(self, round: impl Into<Json>) -> Self {
        self.with("round", round)
    }
}

impl<T: Input + Numeric<Number = i64>> Widget<T> {
    /// A seed: the whole range of 64 bits, changed by the client after each run.
    #[must_use]
    pub fn seed(self) -> Self {
        self.range(0, u64::MAX).with("control_after_generate", true)
    }
}

/// The types [`int`] and [`float`] can declare, told apart by the number their options are written in.
pub trait Numeric {
    type Number: Into<Json>;
}
/// Marks the types [`text`] can declare.
pub trait Text {}
/// Marks the types [`boolean`] can declare.
pub trait Flag {}
impl<T: Numeric> Numeric for Option<T> {
    type Number = T::Number;
}
impl<T: Numeric> Numeric for Vec<T> {
    type Number = T::Number;
}
impl<T: Text> Text for Option<T> {}
impl<T: Flag> Flag for Option<T> {}

/// A closed set of words with a variant each; made by [`choices!`](crate::choices).
pub trait Choice: Sized + 'static {
    /// Every word, in the order clients show them.
    fn words() -> Vec<&'static str>;
    fn from_word(word: &str) -> Option<Self>;
}

impl<T: Choice> Choice for Option<T> {
    fn words() -> Vec<&'static str> {
        T::words()
    }
    fn from_word(word: &str) -> Option<Self> {
        T::from_word(word).map(Some)
    }
}

/// A name from a [`files`] list, or another one that the node's own check accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName(pub String);

impl Input for FileName {
    fn kind() -> Kind {
        Kind::Files("")
    }
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        String::read(name, arg).map(Self)
    }
}

/// A value of any type, or a literal of any kind.
#[derive(Clone, Debug)]
pub struct Anything(pub Arg);

impl Input for Anything {
    fn kind() -> Kind {
        Kind::Link("*")
    }
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        arg.cloned().map(Self).ok_or(NodeError::Missing { name })
    }
}

/// Types that both a literal and a link can carry.
macro_rules! literal_inputs {
    ($($type:ty, $kind:expr, $json:ident => $read:expr;)*) => {$(
        impl Input for $type {
            fn kind() -> Kind { $kind }
            fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
                let found = match arg.ok_or(NodeError::Missing { name })? {
                    Arg::Literal($json) => $read,
                    Arg::Value(value) => value.get::<$type>().map(|v| (*v).clone()),
                    Arg::List(_) => None,
                };
                found.ok_or(NodeError::WrongType { name, expected: <$type as Socket>::NAME })
            }
        }
    )*};
}
literal_inputs! {
    i64, Kind::Int, json => json.as_i64();
    f64, Kind::Float, json => json.as_f64();
    String, Kind::Text, json => json.as_str().map(str::to_owned);
    bool, Kind::Boolean, json => json.as_bool();
}
impl Numeric for i64 {
    type Number = i64;
}
impl Numeric for f64 {
    type Number = f64;
}
impl Text for String {}
impl Flag for bool {}

/// Integers narrower than a link's, and seeds, which need all 64 bits unsigned.
macro_rules! narrow_inputs {
    ($($type:ty),*) => {$(
        impl Numeric for $type { type Number = i64; }
        impl Input for $type {
            fn kind() -> Kind { Kind::Int }
            fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
                if let Some(wide) = arg.and_then(|arg| match arg { Arg::Literal(json) => json.as_u64(), _ => None }) {
                    return Self::try_from(wide).map_err(|_| NodeError::WrongType { name, expected: "INT" });
                }
                Self::try_from(i64::read(name, arg)?).map_err(|_| NodeError::WrongType { name, expected: "INT" })
            }
        }
    )*};
}
narrow_inputs!(i32, u32, u64, usize);

impl<T: Socket> Input for Arc<T> {
    fn kind() -> Kind {
        Kind::Link(T::NAME)
    }
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        match arg.ok_or(NodeError::Missing { name })? {
            Arg::Value(value) => value.get::<T>(),
            Arg::Literal(_) | Arg::List(_) => None,
        }
        .ok_or(NodeError::WrongType { name, expected: T::NAME })
    }
}

impl<T: Input> Input for Option<T> {
    const REQUIRED: bool = false;
    fn kind() -> Kind {
        T::kind()
    }
    /// Clients also send `null` for an optional input that they leave open.
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        let given = arg.filter(|arg| !matches!(arg, Arg::Literal(Json::Null)));
        given.map(|arg| T::read(name, Some(arg))).transpose()
    }
}

/// For nodes that take whole lists ([`Node::TAKES_LISTS`](super::Node::TAKES_LISTS)): every item on the link.
impl<T: Input> Input for Vec<T> {
    fn kind() -> Kind {
        T::kind()
    }
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        match arg.ok_or(NodeError::Missing { name })? {
            Arg::List(items) => items.iter().map(|item| T::read(name, Some(item))).collect(),
            one => Ok(vec![T::read(name, Some(one))?]),
        }
    }
}

/// The value behind an argument, for code that forwards it untouched.
impl From<Value> for Arg {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

/// The name of an input from the field that holds it: some are words of Rust (`r#type`).
#[doc(hidden)]
pub fn input_name(field: &'static str) -> &'static str {
    field.trim_start_matches("r#")
}

/// The name of an input: its own word, or that of its field.
#[doc(hidden)]
#[macro_export]
macro_rules! input_name {
    ($field:ident) => {
        $crate::graph::input_name(stringify!($field))
    };
    ($field:ident $word:literal) => {
        $word
    };
}

/// The names of a group of inputs that are numbered: `numbered!("images.image" 0 1 2)`.
#[macro_export]
macro_rules! numbered {
    ($start:literal $($number:literal)*) => { &[$(concat!($start, $number)),*] };
}
pub use numbered;

/// Declares a node's inputs: `name: Type = widget`, one per line, in `/object_info` order. A name that is no word of
/// Rust follows the field: `width as "resize_type.width": ...`.
///
/// ```
/// use comfyd::graph::{Inputs, int};
/// comfyd::inputs! {
///     struct SizeIn {
///         width: u32 = int(512).range(16, 16384).step(8),
///     }
/// }
/// assert_eq!(SizeIn::specs()[0].options["min"], 16);
/// ```
#[macro_export]
macro_rules! inputs {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($field:ident $(as $word:literal)? : $type:ty = $widget:expr),* $(,)? }) => {
        $(#[$meta])*
        $vis struct $name { $($field: $type),* }
        impl $crate::graph::Inputs for $name {
            fn specs() -> Vec<$crate::graph::InputSpec> {
                vec![$({
                    let widget: $crate::graph::Widget<$type> = $widget;
                    widget.spec($crate::input_name!($field $($word)?))
                }),*]
            }
            fn read(args: &$crate::graph::Args) -> $crate::graph::Result<Self> {
                Ok(Self { $($field: {
                    let name = $crate::input_name!($field $($word)?);
                    <$type as $crate::graph::Input>::read(name, args.get(name))?
                }),* })
            }
        }
    };
}

/// Makes an enum from ComfyUI's words, in the order clients show them.
///
/// ```
/// comfyd::choices! { pub enum Crop { Disabled = "disabled", Center = "center" } }
/// ```
#[macro_export]
macro_rules! choices {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($variant),* }
        impl $crate::graph::Choice for $name {
            fn words() -> Vec<&'static str> { vec![$($word),*] }
            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
        $crate::choice_input!($name);
    };
}

/// Lets a [`Choice`] be an input; [`choices!`](crate::choices) calls it.
#[macro_export]
macro_rules! choice_input {
    ($name:ty) => {
        impl $crate::graph::Input for $name {
            fn kind() -> $crate::graph::Kind {
                $crate::graph::Kind::Choice(<Self as $crate::graph::Choice>::words())
            }
            fn read(name: &'static str, arg: Option<&$crate::graph::Arg>) -> $crate::graph::Result<Self> {
                let word = <String as $crate::graph::Input>::read(name, arg)?;
                <Self as $crate::graph::Choice>::from_word(&word)
                    .ok_or($crate::graph::NodeError::WrongType { name, expected: "COMBO" })
            }
        }
    };
}
