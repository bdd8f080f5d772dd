//! Things that are chosen by name, and errors that list the names.

/// A thing that is chosen by name.
pub trait Named: Sized {
    /// The kind of thing, for messages.
    const WHAT: &'static str;

    /// The names to choose from.
    fn names() -> Vec<&'static str>;

    /// The thing of this name.
    fn by_name(name: &str) -> Option<Self>;

    /// The thing of this name, or an error that lists the known names.
    ///
    /// # Errors
    /// Returns an error if nothing has that name.
    fn named(name: &str) -> Result<Self, String> {
        Self::by_name(name)
            .ok_or_else(|| format!("unknown {} `{name}`; known are {}", Self::WHAT, Self::names().join(", ")))
    }
}
