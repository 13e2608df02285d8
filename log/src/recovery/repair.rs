//! Repair: what is done to segments that the scan has found good, before okaywal
//! opens them.

use std::path::Path;

use crate::disk::Disk;
use crate::error::LogError;
use crate::files::IoError;
use crate::recovery::scanned::{Scanned, WholeSegment};
use crate::segments::segment;

/// Makes the segments such that okaywal sees whole commits only, all that it sees
/// is on disk, and not too many are kept to be used again.
pub(crate) fn repair(disk: &dyn Disk, dir: &Path, scanned: &Scanned) -> Result<(), LogError> {
    let spare = scanned.spare.iter().skip(segment::MOST_SPARE);
    for path in scanned.blank.iter().chain(spare) {
        disk.remove(path).map_err(IoError::at("remove", path))?;
    }
    for (at, segment) in scanned.whole.iter().enumerate() {
        let is_active = at + 1 == scanned.whole.len();
        // What was read may still be in memory only, if the last process died
        // before its fsync: nothing may be built on it before it is on disk.
        if is_active || segment.has_more {
            end_segment(disk, segment, is_active)?;
        }
    }
    Ok(disk.sync_dir(dir).map_err(IoError::at("sync", dir))?)
}

/// What stands behind the last commit of a segment may look to okaywal as if it
/// went on there. In the newest segment it is cut off; in another one, to which
/// nothing is added, a zero will do.
fn end_segment(disk: &dyn Disk, segment: &WholeSegment, is_active: bool) -> Result<(), LogError> {
    let (path, end) = (&segment.file.path, segment.length as u64);
    let mut file = disk.open(path).map_err(IoError::at("open", path))?;
    if segment.has_more && is_active {
        file.set_len(end).map_err(IoError::at("cut", path))?;
    } else if segment.has_more {
        file.write_at(&[0], end).map_err(IoError::at("write", path))?;
    }
    Ok(file.sync().map_err(IoError::at("sync", path))?)
}
