//! A result that fits a message.
