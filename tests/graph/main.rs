//! What a workflow means and how it runs, with toy nodes and no tensor library.

mod blocking;
mod caching;
mod coercion;
mod expansion;
mod judging;
mod lab;
mod lazy;
mod lists;
mod order;
mod size;
mod telling;
mod toys;
