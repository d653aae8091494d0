//! The lines of passwd(5) and group(5). A line that is not as it has to be is passed over.

/// An entry of passwd(5).
#[derive(Debug, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: &'a [u8],
}

pub(super) fn user_by_name<'a>(passwd: &'a [u8], name: &[u8]) -> Option<Entry<'a>> {
    users(passwd).find(|entry| entry.name == name)
}

pub(super) fn user_by_id(passwd: &[u8], uid: u32) -> Option<Entry<'_>> {
    users(passwd).find(|entry| entry.uid == uid)
}

pub(super) fn group_by_name(group: &[u8], name: &[u8]) -> Option<u32> {
    groups(group)
        .find(|(found, ..)| *found == name)
        .map(|(_, gid, _)| gid)
}

/// The groups that have `user` as a member.
pub(super) fn groups_of<'a>(group: &'a [u8], user: &'a [u8]) -> impl Iterator<Item = u32> {
    let has = move |members: &[u8]| {
        members
            .split(|byte| *byte == b',')
            .any(|member| member == user)
    };
    groups(group)
        .filter(move |(.., members)| has(members))
        .map(|(_, gid, _)| gid)
}

/// name:password:uid:gid:gecos:home:shell
fn users(passwd: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        Some(Entry {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or_default(),
        })
    })
}

/// name:password:gid:members
fn groups(group: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((
            name,
            number(fields.nth(1)?)?,
            fields.next().unwrap_or_default(),
        ))
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.starts_with(b"#"))
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_are_passed_over() {
        let passwd = b"# a comment\n\n:x:1:1::/:\nshort:x\nbad:x:-1:0::/:\nbig:x:99999999999:0::/:\nok:x:7:8\n";
        assert_eq!(
            users(passwd).collect::<Vec<_>>(),
            [Entry {
                name: b"ok",
                uid: 7,
                gid: 8,
                home: b""
            }]
        );
    }

    #[test]
    fn a_member_is_a_whole_name() {
        let group = b"a:x:1:rooty,x\nb:x:2:x,root\nc:x:3\nd:x:4:root\n";
        assert_eq!(groups_of(group, b"root").collect::<Vec<_>>(), [2, 4]);
    }
}
