//! From a body that anybody may have written to a [`Plan`], or to every error in it.

use super::{
    catalogue::{Catalogue, Ceilings},
    encoding::Encoding,
    message::Submission,
    plan::Plan,
    result::FieldError,
};
