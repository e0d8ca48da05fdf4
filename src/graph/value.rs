//! What travels along links: typed values, erased so that the executor needs no tensor library.

use std::any::Any;
use std::sync::Arc;

use serde_json::Value as Json;

/// A type that may travel along a link.
pub trait Socket: Any + Send + Sync + Sized {
    /// ComfyUI's word for the type: `"LATENT"`, `"IMAGE"`, ...
    const NAME: &'static str;

    /// What a person is shown of the value, in `current_inputs` of an error and by PreviewAny.
    fn describe(&self) -> Json {
        Json::String(format!("<{}>", Self::NAME))
    }

    /// Memory the value keeps alive, for cache limits.
    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// One value on one output slot. Immutable and cheap to clone.
#[derive(Clone)]
pub struct Value(Arc<dyn Erased>);

/// The object-safe face of [`Socket`].
trait Erased: Send + Sync {
    fn name(&self) -> &'static str;
    fn describe(&self) -> Json;
    fn bytes(&self) -> usize;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Socket> Erased for T {
    fn name(&self) -> &'static str {
        T::NAME
    }
    fn describe(&self) -> Json {
        Socket::describe(self)
    }
    fn bytes(&self) -> usize {
        Socket::bytes(self)
    }
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Value {
    pub fn new<T: Socket>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The same value behind a shared pointer; nothing is copied.
    pub fn shared<T: Socket>(value: Arc<T>) -> Self {
        Self(value)
    }

    /// The value as a `T`, or `None` when it is of another type.
    pub fn get<T: Socket>(&self) -> Option<Arc<T>> {
        self.0.clone().into_any().downcast::<T>().ok()
    }

    /// ComfyUI's word for the type inside.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// See [`Socket::describe`].
    pub fn describe(&self) -> Json {
        self.0.describe()
    }

    /// See [`Socket::bytes`].
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({})", self.name())
    }
}

/// Plain values that are links and literals alike.
macro_rules! literal_sockets {
    ($($type:ty = $name:literal),* $(,)?) => {$(
        impl Socket for $type {
            const NAME: &'static str = $name;
            fn describe(&self) -> Json { Json::from(self.clone()) }
        }
    )*};
}
literal_sockets!(i64 = "INT", f64 = "FLOAT", String = "STRING", bool = "BOOLEAN");

/// What arrives at an input: a literal from the prompt, a value from a link, or, for nodes that
/// take whole lists, one of these per list item.
#[derive(Clone, Debug)]
pub enum Arg {
    Literal(Json),
    Value(Value),
    List(Vec<Arg>),
}

/// The arguments of one call, by input name.
pub type Args = std::collections::BTreeMap<String, Arg>;

/// One item on an output slot as the executor keeps it.
#[derive(Clone, Debug)]
pub enum Item {
    Value(Value),
    /// Stops every consumer: silently, or with a message the user is shown once.
    Blocked(Option<String>),
}
