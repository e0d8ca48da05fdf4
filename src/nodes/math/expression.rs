//! Expressions in Python's spelling: their grammar, and what they come to.

use super::Result;
use super::function;
use super::lexer::{Token, tokens};
use super::value::{Operation, Value};

/// How deep brackets, signs and alternatives may be nested.
const DEEPEST: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    Unequal,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sign {
    Minus,
    Plus,
    Invert,
    Not,
}

/// What is written, with operations of one rank side by side: a long sum is no deep one.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    Constant(Value),
    Name(String),
    Signed(Sign, Box<Expression>),
    Calculated(Box<Expression>, Vec<(Operation, Expression)>),
    Compared(Box<Expression>, Vec<(Comparison, Expression)>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Choice { test: Box<Expression>, then: Box<Expression>, otherwise: Box<Expression> },
    Call(String, Vec<Expression>),
    Item(Box<Expression>, Box<Expression>),
    Slice(Box<Expression>, [Option<Box<Expression>>; 3]),
}

/// What a name stands for.
pub type Names<'a> = [(&'a str, Value)];

impl Expression {
    /// Reads a text. Of several lines the first is meant, unless they are in brackets.
    pub fn read(text: &str) -> Result<Self> {
        let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
        let first = parser.expression()?;
        while let Some(token) = parser.take() {
            if !matches!(token, Token::LineEnd | Token::Sign(";")) {
                return Err(format!("{} stands where the expression should end", token.shown()));
            }
            if !matches!(parser.peek(), None | Some(Token::LineEnd)) {
                parser.expression()?;
            }
        }
        Ok(first)
    }

    pub fn value(&self, names: &Names<'_>) -> Result<Value> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Name(name) => look_up(name, names),
            Self::Signed(sign, of) => signed(*sign, &of.value(names)?),
            Self::Calculated(first, others) => {
                others.iter().try_fold(first.value(names)?, |so_far, other| {
                    other.0.apply(&so_far, &other.1.value(names)?)
                })
            }
            Self::Compared(first, others) => compared(first.value(names)?, others, names),
            Self::And(parts) => first_or_last(parts, names, |value| !value.is_true()),
            Self::Or(parts) => first_or_last(parts, names, Value::is_true),
            Self::Choice { test, then, otherwise } => {
                if test.value(names)?.is_true() {
                    then.value(names)
                } else {
                    otherwise.value(names)
                }
            }
            Self::Call(name, args) => {
                let function = function::find(name).ok_or_else(|| {
                    format!("there is no function `{name}`; there are {}", function::names())
                })?;
                let args = args.iter().map(|arg| arg.value(names)).collect::<Result<Vec<_>>>()?;
                function(&args).map_err(|reason| format!("`{name}`: {reason}"))
            }
            Self::Item(list, index) => item(&list.value(names)?, &index.value(names)?),
            Self::Slice(list, bounds) => {
                let bound = |bound: &Option<Box<Self>>| {
                    let Some(bound) = bound else { return Ok(None) };
                    let place = bound.value(names)?.whole();
                    place.map(Some).ok_or_else(|| "a bound of a slice is not whole".to_owned())
                };
                let [from, to, step] = bounds;
                slice(&list.value(names)?, bound(from)?, bound(to)?, bound(step)?)
            }
        }
    }
}

fn look_up(name: &str, names: &Names<'_>) -> Result<Value> {
    if let Some((_, value)) = names.iter().find(|(known, _)| *known == name) {
        return Ok(value.clone());
    }
    if function::find(name).is_some() {
        return Err(format!("`{name}` is a function; its arguments stand in brackets after it"));
    }
    let known: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    Err(format!("`{name}` is not given; there are {}", known.join(", ")))
}

fn signed(sign: Sign, value: &Value) -> Result<Value> {
    match sign {
        Sign::Minus => value.negative(),
        Sign::Plus => value.positive(),
        Sign::Invert => value.inverted(),
        Sign::Not => Ok(Value::Flag(!value.is_true())),
    }
}

/// The first of the parts that settles the matter, or the last; those after it are not calculated.
fn first_or_last(parts: &[Expression], names: &Names<'_>, settles: fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Flag(false);
    for part in parts {
        last = part.value(names)?;
        if settles(&last) {
            break;
        }
    }
    Ok(last)
}

/// `a < b < c` means `a < b and b < c`.
fn compared(first: Value, others: &[(Comparison, Expression)], names: &Names<'_>) -> Result<Value> {
    let mut left = first;
    for (comparison, other) in others {
        let right = other.value(names)?;
        if !holds(comparison, &left, &right)? {
            return Ok(Value::Flag(false));
        }
        left = right;
    }
    Ok(Value::Flag(true))
}

fn holds(comparison: &Comparison, left: &Value, right: &Value) -> Result<bool> {
    let is_in = || {
        let items = right.items().ok_or("`in` looks for a number in a list, such as `values`")?;
        Ok::<_, String>(items.iter().any(|item| item.equals(left)))
    };
    Ok(match comparison {
        Comparison::Equal => left.equals(right),
        Comparison::Unequal => !left.equals(right),
        Comparison::In => is_in()?,
        Comparison::NotIn => !is_in()?,
        Comparison::Less => left.order(right)?.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => left.order(right)?.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => left.order(right)?.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => left.order(right)?.is_some_and(std::cmp::Ordering::is_ge),
    })
}

fn listed(value: &Value) -> Result<&[Value]> {
    value.items().ok_or_else(|| "only a list, such as `values`, has numbered items".to_owned())
}

fn item(list: &Value, index: &Value) -> Result<Value> {
    let items = listed(list)?;
    let index = index.whole().ok_or("the number of an item is not whole")?;
    let place = if index < 0 { index + items.len() as i128 } else { index };
    let found = usize::try_from(place).ok().and_then(|place| items.get(place));
    found.cloned().ok_or_else(|| format!("there is no item {index} in a list of {}", items.len()))
}

/// Items from one bound to before the other, each `step` further; bounds below zero count from the end.
fn slice(list: &Value, from: Option<i128>, to: Option<i128>, step: Option<i128>) -> Result<Value> {
    let items = listed(list)?;
    let (count, step) = (items.len() as i128, step.unwrap_or(1));
    if step == 0 {
        return Err("a slice takes no steps of zero".to_owned());
    }
    let (lowest, highest) = if step > 0 { (0, count) } else { (-1, count - 1) };
    let place =
        |bound: i128| (if bound < 0 { bound.saturating_add(count) } else { bound }).clamp(lowest, highest);
    let (start, end) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (mut at, end) = (from.map_or(start, place), to.map_or(end, place));
    let mut taken = Vec::new();
    while if step > 0 { at < end } else { at > end } {
        taken.extend(usize::try_from(at).ok().and_then(|at| items.get(at)).cloned());
        at = at.saturating_add(step);
    }
    Ok(Value::List(taken.into()))
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

/// Signs between numbers, with their rank: higher ones hold tighter.
const OPERATIONS: [(&str, Operation, u8); 11] = [
    ("|", Operation::Or, 0),
    ("^", Operation::Xor, 1),
    ("&", Operation::And, 2),
    ("<<", Operation::ShiftedLeft, 3),
    (">>", Operation::ShiftedRight, 3),
    ("+", Operation::Plus, 4),
    ("-", Operation::Minus, 4),
    ("*", Operation::Times, 5),
    ("/", Operation::Divided, 5),
    ("//", Operation::FloorDivided, 5),
    ("%", Operation::Modulo, 5),
];

const COMPARISONS: [(&str, Comparison); 6] = [
    ("<", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
];

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.next += 1;
        token
    }

    /// Takes a sign or word if it comes next.
    fn takes(&mut self, word: &str) -> bool {
        let found = match self.peek() {
            Some(Token::Sign(sign)) => *sign == word,
            Some(Token::Name(name)) => name == word,
            _ => false,
        };
        self.next += usize::from(found);
        found
    }

    fn must_take(&mut self, word: &str) -> Result<()> {
        if self.takes(word) {
            return Ok(());
        }
        let found = self.peek().map_or_else(|| "its end".to_owned(), Token::shown);
        Err(format!("`{word}` is missing before {found}"))
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("it is nested more than {DEEPEST} deep"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// `a if test else b`, or less.
    fn expression(&mut self) -> Result<Expression> {
        self.deeper(|parser| {
            let then = parser.any()?;
            if !parser.takes("if") {
                return Ok(then);
            }
            let test = parser.any()?;
            parser.must_take("else")?;
            let otherwise = parser.expression()?;
            let [test, then, otherwise] = [test, then, otherwise].map(Box::new);
            Ok(Expression::Choice { test, then, otherwise })
        })
    }

    fn any(&mut self) -> Result<Expression> {
        self.joined("or", Self::all, Expression::Or)
    }

    fn all(&mut self) -> Result<Expression> {
        self.joined("and", Self::negation, Expression::And)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Expression>,
        join: fn(Vec<Expression>) -> Expression,
    ) -> Result<Expression> {
        let first = part(self)?;
        let mut parts = Vec::new();
        while self.takes(word) {
            parts.push(part(self)?);
        }
        if parts.is_empty() {
            return Ok(first);
        }
        parts.insert(0, first);
        Ok(join(parts))
    }

    fn negation(&mut self) -> Result<Expression> {
        if self.takes("not") {
            let of = self.deeper(Self::negation)?;
            return Ok(Expression::Signed(Sign::Not, of.into()));
        }
        let first = self.calculation(0)?;
        let mut others = Vec::new();
        while let Some(comparison) = self.comparison()? {
            others.push((comparison, self.calculation(0)?));
        }
        Ok(if others.is_empty() { first } else { Expression::Compared(first.into(), others) })
    }

    fn comparison(&mut self) -> Result<Option<Comparison>> {
        if let Some((_, comparison)) = COMPARISONS.iter().find(|(sign, _)| self.takes(sign)) {
            return Ok(Some(comparison.clone()));
        }
        if self.takes("in") {
            return Ok(Some(Comparison::In));
        }
        if self.takes("not") {
            self.must_take("in")?;
            return Ok(Some(Comparison::NotIn));
        }
        if self.takes("is") {
            return Err("numbers are compared by `==`, not by `is`".to_owned());
        }
        Ok(None)
    }

    /// Operations of rank `least` and higher.
    fn calculation(&mut self, least: u8) -> Result<Expression> {
        let mut left = self.signed()?;
        while let Some((_, rank)) = self.operation().filter(|(_, rank)| *rank >= least) {
            let mut others = Vec::new();
            while let Some((operation, _)) = self.operation().filter(|(_, other)| *other == rank) {
                self.next += 1;
                others.push((operation, self.calculation(rank + 1)?));
            }
            left = Expression::Calculated(left.into(), others);
        }
        Ok(left)
    }

    fn operation(&self) -> Option<(Operation, u8)> {
        let Some(Token::Sign(sign)) = self.peek() else { return None };
        let found = OPERATIONS.iter().find(|(known, ..)| known == sign);
        found.map(|(_, operation, rank)| (*operation, *rank))
    }

    fn signed(&mut self) -> Result<Expression> {
        for (word, sign) in [("-", Sign::Minus), ("+", Sign::Plus), ("~", Sign::Invert)] {
            if self.takes(word) {
                let of = self.deeper(Self::signed)?;
                return Ok(Expression::Signed(sign, of.into()));
            }
        }
        let base = self.indexed()?;
        if !self.takes("**") {
            return Ok(base);
        }
        // Powers hold tighter than a sign before them, and looser than one after.
        let exponent = self.deeper(Self::signed)?;
        Ok(Expression::Calculated(base.into(), vec![(Operation::Power, exponent)]))
    }

    fn indexed(&mut self) -> Result<Expression> {
        let mut whole = self.atom()?;
        let depth = self.depth;
        while self.takes("[") {
            self.depth += 1;
            whole = self.deeper(|parser| parser.index(whole))?;
        }
        self.depth = depth;
        Ok(whole)
    }

    fn index(&mut self, list: Expression) -> Result<Expression> {
        let mut bounds = [None, None, None];
        let mut place = 0;
        loop {
            if self.takes("]") {
                break;
            }
            if place < 2 && self.takes(":") {
                place += 1;
                continue;
            }
            if bounds[place].is_some() {
                self.must_take("]")?;
            }
            bounds[place] = Some(Box::new(self.expression()?));
        }
        match (place, bounds) {
            (0, [Some(index), ..]) => Ok(Expression::Item(list.into(), index)),
            (0, _) => Err("`[]` has no number in it".to_owned()),
            (_, bounds) => Ok(Expression::Slice(list.into(), bounds)),
        }
    }

    fn atom(&mut self) -> Result<Expression> {
        match self.take() {
            Some(Token::Number(number)) => Ok(Expression::Constant(number)),
            Some(Token::Name(name)) => self.named(name),
            Some(Token::Sign("(")) => {
                let inside = self.expression()?;
                self.must_take(")")?;
                Ok(inside)
            }
            Some(token) => Err(format!("{} stands where a number should", token.shown())),
            None => Err("it ends where a number should stand".to_owned()),
        }
    }

    fn named(&mut self, name: String) -> Result<Expression> {
        const RESERVED: [&str; 9] = ["and", "or", "not", "if", "else", "in", "is", "None", "lambda"];
        match name.as_str() {
            "True" => return Ok(Expression::Constant(Value::Flag(true))),
            "False" => return Ok(Expression::Constant(Value::Flag(false))),
            word if RESERVED.contains(&word) => return Err(format!("`{word}` stands where a number should")),
            _ => {}
        }
        if !self.takes("(") {
            return Ok(Expression::Name(name));
        }
        let mut args = Vec::new();
        while !self.takes(")") {
            args.push(self.expression()?);
            if !self.takes(",") {
                self.must_take(")")?;
                break;
            }
        }
        Ok(Expression::Call(name, args))
    }
}
