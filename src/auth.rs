//! Who may come in: the token, where it is kept, and how it is compared.
//!
//! Deliberately knows no routes and no JSON shapes.
