//! stub
use crate::exit::{Exit, Failure};
/// s
#[derive(clap::Args)]
pub(crate) struct ExportArgs {}
pub(crate) fn run(_args: &ExportArgs) -> Result<Exit, Failure> { Ok(Exit::Ok) }
