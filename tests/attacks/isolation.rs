//! What every attack is made against.

/// An isolation, as a fleet is configured for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A container for each submission.
    Container,
    /// A wall within a tenant's container for each stage.
    Sandbox,
}

impl Isolation {
    /// In configuration and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Sandbox => "sandbox",
        }
    }
}
