//! The room's tests: the case table both ways, the library as a second opinion, and properties over generated input.

mod codec;
mod filters;
mod generated;
